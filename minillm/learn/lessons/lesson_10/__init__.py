"""All that belongs to lesson 10 alone: see `minillm.learn.lessons`."""

NAME = "overlap_scheduling"
OFF_BEFORE = {"async_scheduling": False}
ONLY_MEASURE = ("before_and_after",)
