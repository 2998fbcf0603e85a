"""All that belongs to lesson 07 alone: see `minillm.learn.lessons`."""

NAME = "sampling"
ONLY_MEASURE = ("price",)
