"""Kernels: small operations written for one kind of machine, each with its plain-torch twin, which is its oracle."""
