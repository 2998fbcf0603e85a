"""Learning: what the lessons have in common."""
