"""One rank and its device: the model, its memory, its cache, and the steps that it computes."""
