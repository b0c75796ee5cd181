"""Metrics and logs: wrappers of contracts, without decisions."""
