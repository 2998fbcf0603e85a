"""Measurements: the workloads, and who is compared on them."""
