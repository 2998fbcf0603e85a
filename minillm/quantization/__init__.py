"""How a linear layer's weight is stored, and how it is multiplied with."""
