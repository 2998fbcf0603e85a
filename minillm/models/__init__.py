"""Models: one file says how each architecture is built, weights.py fills it from a checkpoint."""
