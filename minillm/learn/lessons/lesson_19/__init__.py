"""All that belongs to lesson 19 alone: see `minillm.learn.lessons`."""

NAME = "new_model"
ONLY_MEASURE = ("before_and_after",)
