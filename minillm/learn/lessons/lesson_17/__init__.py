"""All that belongs to lesson 17 alone: see `minillm.learn.lessons`."""

NAME = "moe"
ONLY_MEASURE = ("compare_grouping", "what_it_buys", "in_a_batch")
