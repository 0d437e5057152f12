"""Calibrate a float graph once into a target-neutral range table, then lower it into the Q/DQ dialect of each target."""
