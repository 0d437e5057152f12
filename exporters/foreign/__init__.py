"""Graphs that kdedge did not make: opened, repaired with proof, calibrated from a file of their inputs, quantized, and compared with the original."""
