"""Lesson 05: chunked prefill, and preemption."""
