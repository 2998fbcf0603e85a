"""All that belongs to lesson 09 alone: see `minillm.learn.lessons`."""

NAME = "cuda_graphs"
OFF_BEFORE = {"enforce_eager": True}
ONLY_MEASURE = ("before_and_after",)
