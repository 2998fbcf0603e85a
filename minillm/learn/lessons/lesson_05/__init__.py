"""All that belongs to lesson 05 alone: see `minillm.learn.lessons`."""

NAME = "chunked_prefill"
ONLY_MEASURE = ("before_and_after", "budgets", "price")
