"""How ranges are found: one streaming pass keeps what all observers need, and each observer reads a range from it.

`seen`: what the pass keeps of an activation, in memory that does not grow with the examples. `choices`: the ranges of every observer.
Each observer is one small file: a pure function of what was seen. Nothing depends on how the examples are cut into batches.
"""
