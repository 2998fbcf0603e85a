"""All that belongs to lesson 04 alone: see `minillm.learn.lessons`."""

NAME = "continuous_batching"
ONLY_MEASURE = ("before_and_after",)
