"""Thresholds from data, and what quantisation shifts put right, without training."""
