"""The operations in plain torch: they run anywhere, and are the oracle of the others."""
