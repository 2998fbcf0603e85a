"""Build 1: a scheduler with its pool of pages."""
