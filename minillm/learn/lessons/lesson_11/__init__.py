"""All that belongs to lesson 11 alone: see `minillm.learn.lessons`."""

NAME = "profiling"
