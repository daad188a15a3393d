"""Pages about a converted network."""
