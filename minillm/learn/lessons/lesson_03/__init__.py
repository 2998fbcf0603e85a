"""Lesson 03: paged attention."""
