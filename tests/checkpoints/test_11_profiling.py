"""Checkpoint 11: reading a profile. Oracles: a list of names, a clock that ticks, and the tensors themselves."""

import tempfile
from pathlib import Path
from typing import Any

from exercises import PLAIN
from tiny import Oracle
from workload import make_engine

from minillm.debug import kernel_kinds, profile_report, spans, step_work
from minillm.debug.profile_report import Profile
from minillm.debug.profiler import recording
from minillm.debug.step_work import ModelShape
from minillm.probe import Event, listen
from minillm.request import SamplingParams

NAMES = {
    "_paged_decode": "attention decode",
    "_paged_prefill": "attention prefill",
    "_rms_norm": "norm",
    "_norm_rotate_store": "rotary+store",
    "_few_rows_linear": "matrix",
    "_one_row_gated": "matrix",
    "_gated_activation": "activation",
    "_choose": "sampling",
    "aten::mm": "matrix",
    "aten::addmm": "matrix",
    "aten::index_select": "copy",
    "minillm::silu_and_multiply": "activation",
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNN": "matrix",
    "void flash::flash_fwd_splitkv_kernel": "attention decode",
    "aten::view": "other",
}


def profile_of(oracle: Oracle) -> Profile:
    """Two requests, one prefill step and three decode steps, on torch's kernels."""
    engine = make_engine(oracle.folder, **PLAIN)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    for prompt in ([5] * 9, [6] * 20):
        engine.add_request(prompt, params)
    with tempfile.TemporaryDirectory() as folder:
        with recording(engine, Path(folder) / "trace.json") as made:
            while engine.has_requests:
                engine.step()
        return made.profile()


class TestKindOf:
    """11.1"""

    def check(self, name: str, right: str) -> None:
        got = kernel_kinds.kind_of(name)
        place = kernel_kinds.ALL_KINDS.index(right) + 1
        assert got == right, (
            f"the kernel {name!r} is said to be of the kind {got!r}, and {right!r} is right, number {place} of them"
        )

    def test_our_kernels_and_others(self) -> None:
        for name, right in NAMES.items():
            self.check(name, right)

    def test_capitals_are_small_letters(self) -> None:
        self.check("Memcpy HtoD (Pinned -> Device)", "copy")
        self.check("void at::native::ArgMaxOps<float>", "sampling")
        self.check("AMPERE_SGEMM_128X64_TN", "matrix")

    def test_the_first_kind_counts(self) -> None:
        """These have parts of several kinds."""
        self.check("void flash::flash_fwd_kernel<cutlass::bfloat16_t>", "attention prefill")
        self.check("cutlass_80_tensorop_bf16_s16816gemm_relu_bf16", "matrix")
        self.check("vectorized_layer_norm_kernel_copy", "norm")

    def test_any_table_of_kinds(self) -> None:
        for kind, parts in kernel_kinds.KINDS.items():
            for part in parts:
                first = next(k for k, others in kernel_kinds.KINDS.items() if any(other in part for other in others))
                self.check(f"x_{part}_y", first if first != kind else kind)

    def test_what_nobody_knows_is_other(self) -> None:
        for name in ("", "aten::view", "zzz"):
            self.check(name, "other")

    def test_in_the_engine_a_step_has_its_matrices(self, oracle: Oracle) -> None:
        profile = profile_of(oracle)
        calls = {row.kind: round(row.calls) for row in profile.phases()["decode"].kinds}
        right = 4 * profile.shape.layers + 1
        assert calls.get("matrix") == right, (
            f"the engine: a decode step has {calls.get('matrix')} kernels of the kind matrix, and {right} is right "
            f"(four a layer, and the head); all of them: {calls}"
        )


class TestBusyAndIdle:
    """11.2"""

    def check(self, pairs: list[tuple[int, int]], start: int, end: int) -> None:
        ticks = [any(a <= t and t + 1 <= b for a, b in pairs) for t in range(start, end)]
        right, before = (sum(ticks), len(ticks) - sum(ticks)), list(pairs)
        got = spans.busy_and_idle(pairs, start, end)
        assert tuple(got) == right, (
            f"the spans {pairs} in the window from {start} to {end}: the numbers (busy, idle) are {tuple(got)}, and "
            f"{right} is right"
        )
        assert pairs == before, f"the spans that came in were changed: a list of {len(pairs)} numbers must stay"

    def test_one_after_the_other(self) -> None:
        self.check([(0, 5), (7, 10)], 0, 10)
        self.check([(2, 5), (5, 8)], 0, 10)

    def test_nothing_at_all(self) -> None:
        self.check([], 3, 9)
        self.check([], 4, 4)

    def test_in_any_order(self) -> None:
        self.check([(7, 10), (0, 5), (20, 22)], 0, 25)

    def test_what_overlaps_counts_once(self) -> None:
        self.check([(10, 20), (15, 30), (16, 18)], 0, 40)

    def test_one_within_another_does_not_end_it(self) -> None:
        self.check([(0, 20), (2, 4), (10, 25)], 0, 30)

    def test_only_the_window_counts(self) -> None:
        self.check([(0, 5), (8, 30)], 3, 12)
        self.check([(0, 2), (50, 60)], 10, 20)
        self.check([(0, 100)], 10, 20)

    def test_many(self) -> None:
        for seed in range(40):
            pairs = [
                ((seed * 7 + i * 13) % 50, (seed * 7 + i * 13) % 50 + (seed + i * 5) % 11) for i in range(seed % 9)
            ]
            self.check(pairs, seed % 20, seed % 20 + 30)

    def test_in_the_engine_a_step_is_its_kernels_and_the_time_between(self, oracle: Oracle) -> None:
        profile = profile_of(oracle)
        for number in profile.windows:
            mine = [kernel for kernel in profile.kernels if kernel.place.step == number]
            start, end = profile.windows[number]
            phase = profile.phase([number])
            right = sum(kernel.duration for kernel in mine)  # on a CPU they run one after the other
            assert abs(phase.busy - right) < 1 and abs(phase.idle - (end - start - right)) < 1, (
                f"the engine: in step {number} kernels ran for {right:.1f} of {end - start:.1f} us, and the profile "
                f"says {phase.busy:.1f} busy, {phase.idle:.1f} idle: other numbers"
            )


class TestAttentionBytes:
    """11.3"""

    def shape(self, windows: list[int], heads: int = 8, kv_heads: int = 4, **more: Any) -> ModelShape:
        sizes = {"layers": len(windows), "hidden": 64, "vocab": 100, "inner": 96, "layer_weights": 0, "head_weights": 0}
        sizes |= {"layer_numbers": 0, "layer_columns": 0, "head_dim": 16, "itemsize": 4, "kv_itemsize": 4}
        return ModelShape(heads=heads, kv_heads=kv_heads, windows=windows, **{**sizes, **more})

    def check(self, shape: ModelShape, count: int, context: int) -> None:
        """Token by token, head by head."""
        right = 0
        for window in shape.windows:
            seen = set()
            for position in range(context - count, context):
                first = max(position - window + 1, 0) if window else 0
                seen |= set(range(first, position + 1))
                right += 2 * shape.heads * shape.head_dim * shape.itemsize
            for _token in seen:
                for _head in range(shape.kv_heads):
                    right += 2 * shape.head_dim * shape.kv_itemsize
        got = step_work.attention_bytes(shape, count, context)
        assert got == right, (
            f"{count} tokens of a request that has {context} then, {shape.heads} query heads, {shape.kv_heads} "
            f"key/value heads of {shape.head_dim}, windows {shape.windows}: {got} bytes, and the number is {right}"
        )

    def test_one_token(self) -> None:
        self.check(self.shape([0]), 1, 100)
        self.check(self.shape([0]), 1, 1)

    def test_layers_add_up(self) -> None:
        self.check(self.shape([0, 0, 0]), 1, 30)

    def test_heads_that_share_keys_read_them_once(self) -> None:
        self.check(self.shape([0, 0], heads=8, kv_heads=1), 1, 50)

    def test_a_prompts_queries_share_what_they_read(self) -> None:
        self.check(self.shape([0, 0]), 40, 40)
        self.check(self.shape([0, 0]), 5, 40)

    def test_windows(self) -> None:
        self.check(self.shape([10, 0]), 1, 100)
        self.check(self.shape([10, 7]), 1, 5)
        self.check(self.shape([10, 0, 10]), 6, 30)
        self.check(self.shape([10]), 30, 32)

    def test_a_cache_of_smaller_numbers(self) -> None:
        self.check(self.shape([0, 0], itemsize=2, kv_itemsize=1), 3, 20)

    def test_in_the_engine_it_is_what_the_tensors_hold(self, oracle: Oracle) -> None:
        engine = make_engine(oracle.folder, **PLAIN)
        shape, right = step_work.shape_of(engine), []

        def note(event: Event) -> None:
            (context,), cache = event.batch.context_lens, event.batch.kv_cache
            right.append(cache[event.layer].slots[:context].nbytes + 2 * event.q.numel() * event.q.itemsize)

        engine.add_request([7] * 30, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True))
        with listen("attention.attend", note):
            engine.step()
            engine.step()
        for what, tensors, count, context in (
            ("the prompt's", right[: shape.layers], 30, 30), ("a decode", right[shape.layers :], 1, 31)
        ):  # fmt: skip
            got = step_work.attention_bytes(shape, count, context)
            assert got == sum(tensors), (
                f"the engine: in {what} step the tensors of queries, results, keys and values hold {sum(tensors)} "
                f"bytes; your number is {got}"
            )
        moved = profile_report.bytes_of_step(shape, [30], [30], 1)
        assert moved["attention prefill"] == sum(right[: shape.layers]), "a step's number is that of its request"
