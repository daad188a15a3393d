"""Benchmarks: networks, data, training and comparisons; run from a checkout, never installed."""
