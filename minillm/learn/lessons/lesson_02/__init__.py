"""All that belongs to lesson 02 alone: see `minillm.learn.lessons`."""

NAME = "kv_cache"
ONLY_MEASURE = ("cost_with_and_without",)
