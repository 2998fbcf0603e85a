"""Attention over pages: the batch that it reads, the interface of a backend, and the backends."""
