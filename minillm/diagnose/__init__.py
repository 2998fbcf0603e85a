"""Diagnosis: what is wrong with a checkpoint, and where two computations of one model first differ."""
