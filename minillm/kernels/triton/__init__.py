"""The operations for a GPU, in Triton."""
