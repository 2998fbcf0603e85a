"""From logits to tokens: what requests ask of the choice, and the choice."""
