"""What one layer of neurons costs; ``python -m benchmarks.ops``."""
