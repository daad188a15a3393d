"""Kernels, one folder per family: a literal reference, and one file per way to run it."""
