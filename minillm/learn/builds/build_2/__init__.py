"""Build 2: paged decode attention, a kernel in Triton."""
