"""All that belongs to lesson 08 alone: see `minillm.learn.lessons`."""

NAME = "attention_kernels"
ONLY_MEASURE = ("price",)
