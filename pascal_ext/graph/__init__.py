"""The traced graph of a model: how it is made, and what its operations are."""
