"""Conversions beside each other: methods on one network and its images, rows of results, and a report of them."""
