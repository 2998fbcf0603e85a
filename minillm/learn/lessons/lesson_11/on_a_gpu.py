"""The part of the lesson that needs an NVIDIA GPU: NVIDIA's own profiler, and what CUDA graphs change in a profile."""

import tempfile
from pathlib import Path

import torch
from rich.text import Text

from minillm.debug.views.compare import before_after
from minillm.learn.lesson import Lesson
from minillm.learn.lessons.lesson_11.recorded import record

NSYS = """\
nsys profile -t cuda,nvtx -o run \\
    python -m minillm generate 'What is a KV cache?' --profile nvtx
nsys stats -r nvtx_sum,cuda_gpu_kern_sum run.nsys-rep
nsys-ui run.nsys-rep"""


def on_a_gpu(lesson: Lesson, prompts: list[list[int]], pages: int) -> None:
    """NVIDIA's profiler, which knows our names; where there is a GPU, graphs and no graphs."""
    there = torch.cuda.is_available()
    lesson.say(f"""This needs an NVIDIA GPU; torch sees {"one" if there else "none"} here. The same names go to NVIDIA's
        own profiler, Nsight Systems (nsys), as NVTX ranges. Only one profiler may record a GPU at a time, so ours is
        asked for the names alone, with [bold]--profile nvtx[/]:""")
    lesson.show(Text(NSYS, "title"))
    lesson.say("""The first records, the second prints sums by range and by kernel, the third shows the lanes. A CUDA
        graph (lesson 09) starts all kernels of a step by one call: between them no Python runs, so there are no ranges
        of ours inside. Our tables find the layers of a graph in another way: the names of a step's kernels, in their
        order, repeat once for each layer.""")
    if there:
        lesson.say("A decode step of one request, launched kernel by kernel and as a graph:")
        rows = graphs_and_not(lesson, prompts, pages)
        lesson.show(before_after(rows, before="enforce_eager", after="CUDA graphs"))


def graphs_and_not(lesson: Lesson, prompts: list[list[int]], pages: int) -> list[tuple]:
    """A decode step of one request from Python and as a CUDA graph: how long the GPU has nothing to do."""
    phases = []
    with tempfile.TemporaryDirectory() as folder:
        for eager in (True, False):
            engine = lesson.quiet_llm(prefix_cache="none", num_pages=pages, enforce_eager=eager).engine
            profile, _ = record(engine, prompts, Path(folder) / f"{eager}.json")
            phases.append(profile.phases()["decode"])
            del engine
    launched, graphs = phases
    return [
        ("a decode step", launched.wall / 1e6, graphs.wall / 1e6, "s", "lower"),
        ("kernels run", launched.busy / 1e6, graphs.busy / 1e6, "s", "lower"),
        ("GPU idle", launched.idle / 1e6, graphs.idle / 1e6, "s", "lower"),
    ]
