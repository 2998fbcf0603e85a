"""All that belongs to lesson 06 alone: see `minillm.learn.lessons`."""

NAME = "radix_cache"
OFF_BEFORE = {"prefix_cache": "none"}
ONLY_MEASURE = ("before_and_after",)
