"""Metrics, one a file: input -> features -> statistics -> value, each rung public."""
