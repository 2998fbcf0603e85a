"""All that belongs to lesson 03 alone: see `minillm.learn.lessons`."""

NAME = "paged_attention"
ONLY_MEASURE = ("before_and_after", "page_sizes")
