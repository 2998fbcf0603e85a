"""Several ranks working on one model."""
