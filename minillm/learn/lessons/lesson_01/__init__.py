"""All that belongs to lesson 01 alone: see `minillm.learn.lessons`."""

NAME = "first_token"
ONLY_MEASURE = ("cost_of_forgetting",)
