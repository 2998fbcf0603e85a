"""The part of the lesson about the GPU's kernel: compiled where there is a GPU, else interpreted, line by line.

Whether a kernel is interpreted or compiled is settled when its file is imported, and for Triton's own functions when
Triton is. So what belongs to Triton is imported in here, after `interpreter` has asked for it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from minillm.debug.kernel_lines import traced
from minillm.debug.views.kernel_listing import kernel_listing
from minillm.kernels.triton.load import interpreter
from minillm.learn.asking import answered
from minillm.learn.example import QUESTION, question
from minillm.learn.lesson import Lesson
from minillm.learn.lessons.lesson_08.backends import answer, triton
from minillm.learn.lessons.lesson_08.query import Query
from minillm.probe import Event, listen

SPLITS = 4  # into how many parts the context is cut
ON_CPU = 'CUDA_VISIBLE_DEVICES=""'  # before a command: the same on a machine with a GPU


def the_kernel(lesson: Lesson, query: Query) -> Tensor | None:
    """The query through the Triton kernel, ``[1, H * D]``; None where there is no Triton."""
    lesson.say("""What you saw until here is plain torch, minillm/kernels/torch/attention.py. The GPU's kernel is
        _paged_decode in minillm/kernels/triton/attention.py. It is written for [bold]one program[/]: one request, one
        key/value head, one split. The GPU runs many of them at a time.""")
    if torch.cuda.is_available():
        lesson.say(f"""This machine has a GPU, so Triton compiles the kernel for it, and no debugger can stop inside. To
            step through it, hide the GPU: {ON_CPU} python3 scripts/start.py lesson 08 --break kernel.scores""")
        return answer(triton(query), query)
    with interpreter() as why_not:
        if why_not:
            said = "No stop at kernel.* comes without it. All else is plain torch."
            lesson.say(f"It cannot be shown here: {why_not}. {said}")
            return None
        out = step_by_step(lesson, query)
        an_engine_on_it(lesson)
    return out


def step_by_step(lesson: Lesson, query: Query) -> Tensor:
    """``[1, H * D]``, from the interpreted kernel, with the lines of its first program, and all splits' parts."""
    # Here: whether Triton's kernels are interpreted is settled when they are imported.
    from minillm.attention.triton import TritonAttention
    from minillm.kernels.triton import attention as triton_attention

    tile = triton_attention.decode_tile(query.q.itemsize, query.q.shape[-1], few=True)
    blocks = -(-query.length // tile.tokens)
    each = -(-blocks // SPLITS)
    lengths, backend = torch.tensor([query.length], dtype=torch.int32), TritonAttention(query.shape)
    query.batch.plan = backend.plan_decode(lengths, torch.tensor([each], dtype=torch.int32), SPLITS, tile)
    lesson.say(f"""Triton has an interpreter, which runs a kernel as Python, on a CPU (TRITON_INTERPRET=1). So one can
        stop in it, and go from line to line. It is slow: what a GPU does in microseconds takes up to a second here, for
        one layer and one token, and the engine below takes some seconds. The first of its {query.heads.shape[0]} x
        {SPLITS} programs, for key/value head 0 and split 0, as it runs. Its blocks have {tile.tokens} tokens, and
        {query.heads.shape[1]} query heads share the key/value head, in a matrix of {tile.rows} rows:""")
    stops = lesson.options.break_at  # who stops in there sees the lines anyway
    looking: AbstractContextManager[Any] = nullcontext([]) if stops else traced(triton_attention._paged_decode)
    merged: list[Event] = []
    with looking as lines, listen("kernel.merge", merged.append):
        out = backend.attend(query.layer, query.q, query.batch)
    if lines:
        lesson.show(kernel_listing(lines))
    lesson.say(f"""f32[16, 32] is a matrix of float32 numbers, 16 rows and 32 columns. A kernel has no loop over tokens
        or heads: every line works on a whole block. Scores are in powers of two here (scale holds the factor 1.4427,
        exp2 is faster than exp), so the numbers differ from the table above by that. The last program of a head to
        finish calls _merge, which puts {SPLITS} splits together as we did. It came by {len(merged)} times, once for
        each key/value head.""")
    return out


def an_engine_on_it(lesson: Lesson) -> None:
    """A whole engine whose attention is the interpreted kernel, for a few tokens."""
    lesson.say("And a whole engine on it, for three tokens, which takes some seconds:")
    engine = lesson.llm(attention_backend="triton", num_pages=8).engine
    other = lesson.quiet_llm(num_pages=8, attention_backend="reference").engine
    prompt = question(engine.tokenizer, lesson.options.prompt or QUESTION)[:96]
    tokens, others = (answered(one, prompt, 3).output_ids for one in (engine, other))
    lesson.say(f"""Every layer's attention was the kernel. The answer's first {len(tokens)} tokens are
        {escape(lesson.quoted(engine.tokenizer.decode(tokens)))}; with the reference backend the same tokens, both
        times: [good]{tokens == others}[/].""")
