"""Lesson 04: continuous batching."""
