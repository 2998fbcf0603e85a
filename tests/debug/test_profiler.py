"""A profile is a trace that opens, its sums are the wall clock's, and the engine is afterwards what it was."""

import ast
import gzip
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tiny import Oracle
from workload import make_engine

from minillm.debug.attribution import repeated_layers
from minillm.debug.kernel_kinds import ALL_KINDS, OTHER, kind_of
from minillm.debug.profile_report import Phase, Profile
from minillm.debug.profiler import file_for, profiled, recording
from minillm.debug.ranges import named_ranges
from minillm.debug.spans import Interval, busy_and_idle, read_trace
from minillm.debug.step_work import StepFacts, bytes_of_step, flops_of_step, shape_of
from minillm.debug.views.profile_table import profile_tables
from minillm.debug.views.theme import make_console
from minillm.engine.engine import Engine
from minillm.request import SamplingParams

PROMPTS = [[5] * 9, [6] * 20]
KERNELS = Path(__file__).resolve().parents[2] / "minillm" / "kernels"


def serve(engine: Engine, tokens: int = 6) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    requests = [engine.add_request(prompt, params) for prompt in PROMPTS]
    while engine.has_requests:
        engine.step()
    return [request.output_ids for request in requests]


@pytest.fixture(scope="module", params=["cpu", "torch"])
def run(
    request: pytest.FixtureRequest, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Profile, dict[str, Any], Engine, float]:
    """A profile, its file's content, its engine, and what the clock said around it; on compiled kernels and without."""
    settings = {"kernels": "torch", "attention_backend": "reference"} if request.param == "torch" else {}
    engine = make_engine(oracle.folder, **settings)
    path = tmp_path_factory.mktemp("profile") / "trace.json"
    with recording(engine, path):
        start = time.perf_counter()
        serve(engine)
        wall = (time.perf_counter() - start) * 1e6
    trace = read_trace(path)
    return Profile.of(trace), trace, engine, wall


def test_the_file_is_a_chrome_trace(run: tuple[Profile, dict[str, Any], Engine, float]) -> None:
    _, trace, _, _ = run
    timed = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert timed
    for event in timed:
        assert isinstance(event["name"], str)
        assert event["dur"] >= 0
        assert {"ts", "pid", "tid"} <= event.keys()


def test_steps_layers_and_their_parts_have_names(run: tuple[Profile, dict[str, Any], Engine, float]) -> None:
    profile, trace, _, _ = run
    names = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    layers = {f"layer {i}{part}" for i in range(profile.shape.layers) for part in ("", " attention", " mlp")}
    steps = {f"{word} {number}" for word in ("step", "launch") for number in profile.facts}
    assert names >= layers | steps | {"schedule", "forward", "head", "sample", "read", "commit", "build batch"}
    assert names >= {"attention decode", "attention prefill"}


def test_its_sums_are_the_wall_clocks(run: tuple[Profile, dict[str, Any], Engine, float]) -> None:
    profile, _, _, wall = run
    phases = profile.phases()
    assert [len(phase.steps) for phase in phases.values()] == [1, 5], "one prefill step, then a token a step"
    for phase in phases.values():
        kinds = sum(row.microseconds for row in phase.kinds)
        layers = sum(sum(times.values()) for times in phase.layers.values())
        assert kinds == pytest.approx(phase.busy, rel=1e-3), "on a CPU nothing runs beside anything else"
        assert layers == pytest.approx(kinds)
        assert phase.busy + phase.idle == pytest.approx(phase.wall)
        assert phase.idle > 0
        assert phase.host["launch"] <= phase.wall
        assert phase.host["forward"] + phase.host["head"] <= phase.host["launch"]
    assert sum(phase.wall * len(phase.steps) for phase in phases.values()) <= wall


def test_kinds_and_layers_are_the_models(run: tuple[Profile, dict[str, Any], Engine, float]) -> None:
    profile, _, _, _ = run
    prefill, decode = profile.phases().values()
    calls = {row.kind: row.calls for row in decode.kinds}
    assert calls["matrix"] == 4 * profile.shape.layers + 1, "qkv, o, gate and up, down; and the head"
    assert calls["norm"] >= 2 * profile.shape.layers + 1, "in torch, what is added first is an operator of its own"
    assert "attention decode" in calls
    assert "attention prefill" not in calls
    assert {row.kind for row in prefill.kinds} >= {"matrix", "attention prefill", "rotary+store", "sampling"}
    for layer in range(profile.shape.layers):
        assert decode.layers[layer].keys() >= {"matrix", "attention decode", "norm"}
    assert decode.layers["head"].keys() >= {"matrix"}
    assert prefill.tokens == sum(map(len, PROMPTS))
    assert (decode.tokens, decode.requests) == (2, 2)


def test_the_engine_is_afterwards_what_it_was(oracle: Oracle, tmp_path: Path) -> None:
    engine = make_engine(oracle.folder)
    things = [engine, engine.scheduler, engine.runner, engine.runner.backend, *engine.model.modules()]
    before = [dict(vars(thing)) for thing in things]
    expected = serve(engine)
    with recording(engine, tmp_path / "a.json"):
        assert serve(engine) == expected
    with pytest.raises(KeyboardInterrupt), recording(engine, tmp_path / "b.json"):
        engine.add_request([3, 4])
        engine.step()
        raise KeyboardInterrupt
    assert Profile.of(read_trace(tmp_path / "b.json")).phases()
    for request in list(engine.scheduler.running):
        engine.abort(request.id)
    for thing, attributes in zip(things, before):
        now = vars(thing)
        assert {k for k in now if callable(now[k])} == {k for k in attributes if callable(attributes[k])}
    assert serve(engine) == expected


def test_it_ends_after_so_many_steps(oracle: Oracle, tmp_path: Path) -> None:
    engine = make_engine(oracle.folder)
    with recording(engine, tmp_path / "trace.json.gz", steps=3) as made:
        serve(engine)
        assert "step" not in vars(engine), "it has ended by itself"
    with gzip.open(tmp_path / "trace.json.gz", "rt") as file:
        assert len(json.load(file)["minillm"]["steps"]) == 3
    assert len(made.facts) == 3


def test_a_folder_gets_a_file(oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, seen = make_engine(oracle.folder), []
    with profiled(engine, tmp_path / "new", seen.append, "mine"):
        serve(engine)
    assert len(seen) == 1
    assert str(tmp_path / "new" / "mine.json") in capsys.readouterr().err
    with profiled(engine, tmp_path / "new", seen.append):
        pass  # no step, nothing to say
    with profiled(engine, None, seen.append), profiled(engine, "nvtx", seen.append):
        serve(engine)
    assert len(seen) == 1


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="as a trace"):
        read_trace(tmp_path / "no.json")
    (tmp_path / "other.json").write_text('{"traceEvents": []}')
    with pytest.raises(ValueError, match="nothing of its steps"):
        Profile.of(read_trace(tmp_path / "other.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="no Chrome trace"):
        read_trace(tmp_path / "list.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        file_for(tmp_path / "file" / "trace.json")


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12))), st.integers(0, 30), st.integers(0, 30))
def test_busy_and_idle_count_every_microsecond_once(pairs: list[tuple[int, int]], start: int, length: int) -> None:
    spans: list[Interval] = [(first, first + size) for first, size in pairs]
    busy = sum(any(a <= t and t + 1 <= b for a, b in spans) for t in range(start, start + length))
    assert busy_and_idle(spans, start, start + length) == (busy, length - busy)


def launched_kernels() -> set[str]:
    """The functions in our Triton files that are launched, as ``name[grid](...)``; a profiler shows these names."""
    found = set()
    for path in (KERNELS / "triton").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                found |= {node.func.value.id} if isinstance(node.func.value, ast.Name) else set()
    return found


def test_each_of_our_kernels_is_of_a_kind() -> None:
    names = launched_kernels()
    assert {"_paged_decode", "_paged_prefill", "_rms_norm", "_norm_rotate_store", "_few_rows_linear"} <= names
    assert not [name for name in names if kind_of(name) == OTHER]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_norm_rotate_store", "rotary+store"),
        ("_rms_norm", "norm"),
        ("nvjet_tst_192x128_64x4_2x1_v_bz_coopA_TNN", "matrix"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>(...)", "matrix"),
        ("void gemv2T_kernel_val<int, int, float, float>", "matrix"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>", "matrix"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix"),
        ("void flash::flash_fwd_splitkv_kernel<...>", "attention decode"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", "attention prefill"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::vectorized_gather_kernel<16, long>", "copy"),
        (
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ArgMaxOps<float>>>",
            "sampling",
        ),
        ("aten::mm", "matrix"),
        ("mkldnn::_linear_pointwise", "matrix"),
        ("minillm::silu_and_multiply", "activation"),
        ("minillm::norm_heads", "norm"),
        ("aten::scaled_dot_product_attention", "attention prefill"),
        ("aten::view", OTHER),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind
    assert kind in ALL_KINDS


@pytest.mark.parametrize("layers", [2, 3, 28])
def test_layers_of_a_graph_are_found_by_what_repeats(layers: int) -> None:
    layer = ["norm", "mm", "rotate", "attend", "mm", "norm", "mm", "mm"]
    names = ["take", "embed", *layer * layers, "norm", "mm", "choose"]
    where = [None, None, *(i for i in range(layers) for _ in layer), None, None, None]
    assert repeated_layers(names, layers) == where
    assert repeated_layers(["a", "b", "c"], layers) == [None] * 3


def test_bytes_and_operations_of_a_step_are_the_tensors(oracle: Oracle) -> None:
    """Against the checkpoint's own parameters, and attention counted query by query."""
    engine = make_engine(oracle.folder, kernels="torch", pack_weights=False)
    shape, size = shape_of(engine), 4
    named = dict(oracle.model.named_parameters())
    matrices = sum(p.numel() for name, p in named.items() if "proj" in name) + named["lm_head.weight"].numel()
    counts, contexts = [1, 5, 1], [30, 12, 7]
    moved, done = bytes_of_step(shape, counts, contexts, 2), flops_of_step(shape, counts, contexts, 2)
    assert moved["matrix"] > matrices * size, "all weights, and what goes in and comes out"
    assert bytes_of_step(shape, [], [], 0)["matrix"] == matrices * size
    head = shape.hidden * shape.vocab
    assert done["matrix"] == 2 * (7 * (matrices - head) + 2 * head)
    both = 2 * shape.kv_heads * shape.head_dim * size
    own = 2 * shape.heads * shape.head_dim * size
    assert moved["attention decode"] == shape.layers * ((30 + 7) * both + 2 * own)
    assert moved["attention prefill"] == shape.layers * (12 * both + 5 * own)
    pairs = sum(context - count + i + 1 for count, context in zip([5], [12]) for i in range(count))
    assert done["attention prefill"] == shape.layers * 4 * shape.heads * shape.head_dim * pairs


def test_windows_and_experts_are_counted_as_far_as_they_go(oracle: Oracle) -> None:
    shape = shape_of(make_engine(oracle.folder))
    whole = bytes_of_step(shape, [1], [100], 1)["attention decode"]
    shape.windows = [10] * shape.layers
    assert bytes_of_step(shape, [1], [100], 1)["attention decode"] < whole / 5
    before = bytes_of_step(shape, [1], [100], 1)["matrix"]
    shape.experts, shape.chosen, shape.expert_weights = 8, 2, 1000
    assert bytes_of_step(shape, [1], [100], 1)["matrix"] == before + shape.layers * 2 * 1000
    many = bytes_of_step(shape, [50], [100], 1)["matrix"]
    shape.experts = 0
    assert many == bytes_of_step(shape, [50], [100], 1)["matrix"] + shape.layers * 8 * 1000


def test_a_step_that_computes_a_prompt_is_no_decode_step() -> None:
    assert StepFacts(1, [1, 1], [5, 9], 2).is_decode
    assert not StepFacts(1, [1, 4], [5, 9], 2).is_decode


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(run: tuple[Profile, dict[str, Any], Engine, float], width: int) -> None:
    profile = run[0]
    for plain in (True, False):
        file = io.StringIO()
        make_console(plain, width, file=file).print(profile_tables(profile))
        text = file.getvalue()
        assert max(cell_len(line) for line in text.splitlines()) <= width
        for word in ("prefill: 1 step of 29 tokens", "matrix", "layer 2", "head", "of copy", "Python between"):
            assert word in text


def test_many_layers_are_shortened() -> None:
    from minillm.debug.views.profile_table import by_layer

    phase = Phase([], 100.0, 90.0, 10.0, [], {i: {"matrix": 1.0} for i in range(40)}, {})
    file = io.StringIO()
    make_console(True, 80, file=file).print(by_layer(phase))
    shown = [line.split()[1] for line in file.getvalue().splitlines() if line.startswith("layer")]
    assert shown == [*map(str, range(6)), *map(str, range(34, 40))]
    assert "..." in file.getvalue()


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{"enforce_eager": True}, {}], ids=["eager", "graphs"])
def test_on_a_gpu_kernels_have_kinds_and_layers(oracle: Oracle, tmp_path: Path, settings: dict[str, Any]) -> None:
    engine = make_engine(oracle.folder, device="cuda", dtype="bfloat16", **settings)
    serve(engine)  # compiles what is not compiled yet
    with recording(engine, tmp_path / "trace.json") as made:
        serve(engine)
    profile = made.profile()
    assert profile.on_gpu
    phases = profile.phases()
    assert phases.keys() == {"prefill", "decode"}
    for name, phase in phases.items():
        times = {row.kind: row.microseconds for row in phase.kinds}
        assert {"matrix", f"attention {name}", "norm", "rotary+store"} <= times.keys()
        assert phase.busy <= sum(times.values()) * 1.001
        assert phase.busy + phase.idle == pytest.approx(phase.wall)
        for layer in range(profile.shape.layers):
            assert "matrix" in phase.layers[layer], f"{name}: layer {layer}"
            assert f"attention {name}" in phase.layers[layer]
    names = {event["name"] for event in read_trace(tmp_path / "trace.json")["traceEvents"]}
    assert {"schedule", "commit", "read"} <= names


@pytest.mark.gpu
def test_names_for_nsys_need_no_profiler(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder, device="cuda", dtype="bfloat16")
    expected = serve(engine)
    with named_ranges(engine):
        assert serve(engine) == expected
