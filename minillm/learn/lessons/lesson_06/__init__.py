"""Lesson 06: the radix cache."""
