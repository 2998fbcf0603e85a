"""Where keys and values live: pages (who owns which) and storage (the tensors)."""
