"""Latency regression checks as people run them: what is compared, baselines that are kept as artifacts, many cells, and what CI reads of it."""
