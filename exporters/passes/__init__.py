"""Graph passes: one file a pass, each bounded by opset, each checked for equivalence and reverted on mismatch (`apply.py`)."""
