"""The comparison: conversions side by side on the same network and images; ``python -m benchmarks.compare --help``."""
