"""Levels for each layer, chosen before conversion: what they do to the network, what they cost, and the best plan."""
