"""The flash-attn backend: how it calls the package (anywhere, with a stand-in), what it refuses, and the package itself
(on a GPU where it is installed)."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flash_stand_in import stand_in
from paged import make_batch, make_cache, make_shape, shuffled_pages
from parity import greedy_with_logits, random_prompt
from tiny import TEXT_VOCAB, make_llama, make_model
from torch import Tensor
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.attention import flash
from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.choose import choose_backend
from minillm.attention.flash import FlashAttention, FlashAttention3, unfit
from minillm.attention.naive import NaiveAttention
from minillm.config import EngineConfig
from minillm.kernels.torch.kernels import TorchKernels
from minillm.probe import listen
from minillm.setup import Setup

Make = Callable[[AttentionShape], AttentionBackend]
SHAPE = make_shape(4, 4, 16, [None], dtype=torch.bfloat16)
PLAIN = {"kernels": "torch", "attention_backend": "reference"}
KINDS = {  # (context, queries) of each request
    "decode": [(1, 1), (256, 1), (257, 1), (700, 1)],
    "prefill": [(5, 5), (256, 256), (300, 300)],
    "chunk": [(300, 7), (600, 256), (256, 2)],
    "mixed": [(300, 1), (3, 1), (12, 12), (520, 9), (257, 256)],
}
HEADS = [(4, 4, 64), (6, 2, 96), (14, 2, 64), (16, 8, 128), (4, 1, 128)]
packages = pytest.mark.parametrize("version", [FlashAttention, FlashAttention3], ids=["2", "3"])


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Windows = Sequence[int | None]


def make_case(
    lengths: list[tuple[int, int]],
    S: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    windows: Windows,
    make: Make,
) -> tuple[ForwardBatch, Tensor]:
    """A batch of (context, queries) requests over shuffled pages, its queries ``[T, H, D]``, a layer for each window.
    One page more than needed stands in the table's rows, as in an engine that looks ahead."""
    H, Hkv, D = heads
    shape = make_shape(H, Hkv, D, windows, dtype=dtype, device=str(DEVICE))
    cache = make_cache(shape, sum(-(-context // S) for context, _ in lengths) + 3, S)
    cache.tensor.normal_()
    batch = make_batch(cache, lengths, shuffled_pages(cache, lengths, seed=1, spare=1), make(shape))
    batch.plan = batch.backend.prepare(batch)
    fused = torch.randn(batch.num_tokens, H + 2 * Hkv, D, dtype=dtype, device=DEVICE)
    return batch, fused[:, :H]  # rows that do not touch, as the model has them


def assert_right(batch: ForwardBatch, q: Tensor) -> None:
    """In every layer."""
    shape = batch.backend.shape
    for layer in range(len(shape.windows)):
        got, right = batch.backend.attend(layer, q, batch), NaiveAttention(shape).attend(layer, q, batch)
        assert got.dtype == q.dtype and got.shape == (len(q), q.shape[1] * q.shape[2])
        tolerance = 2e-2 if q.dtype == torch.bfloat16 else 3e-3
        torch.testing.assert_close(got, right, atol=tolerance, rtol=tolerance)


def over_stand_in(version: type[FlashAttention]) -> Make:
    return lambda shape: version(shape, stand_in(3 if version is FlashAttention3 else 2))


@packages
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 1, 100, 256, 5000])
def test_how_the_package_is_called(version: type[FlashAttention], kind: str, window: int | None) -> None:
    assert_right(*make_case(KINDS[kind], 256, (6, 2, 16), torch.bfloat16, [window], over_stand_in(version)))


@packages
def test_layers_with_and_without_a_window_share_one_plan(version: type[FlashAttention]) -> None:
    windows = [7, None, 400, 7]
    assert_right(*make_case(KINDS["mixed"], 512, (4, 4, 8), torch.float16, windows, over_stand_in(version)))


def test_version_3_takes_pages_of_any_size() -> None:
    lengths = [(7, 1), (50, 1), (40, 40), (64, 9)]
    for S in (1, 16, 48):
        assert_right(*make_case(lengths, S, (4, 2, 16), torch.bfloat16, [None], over_stand_in(FlashAttention3)))


@packages
def test_a_fixed_plan_takes_the_page_table_of_the_batch(version: type[FlashAttention]) -> None:
    """As in a CUDA graph: the table is int32 and as wide as it may get, and lengths are written before each replay."""
    make = over_stand_in(version)
    batch, q = make_case(KINDS["decode"], 256, (6, 2, 16), torch.bfloat16, [None, 100], make)
    lengths = torch.tensor(batch.context_lens, dtype=torch.int32, device=q.device)
    batch.page_table = torch.nn.functional.pad(batch.page_table, (0, 9)).int()
    batch.plan = batch.backend.fixed_plan(batch, lengths, lengths[:1])
    assert_right(batch, q)


@packages
def test_an_engine_gives_the_tokens_of_the_reference(
    version: type[FlashAttention], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts over several pages, prompts in chunks, prefixes from the cache. The stand-in takes float32 here, so
    that greedy tokens can be compared."""
    make_llama(tmp_path, vocab_size=TEXT_VOCAB, max_position_embeddings=1024)
    package = stand_in(3 if version is FlashAttention3 else 2, (torch.float32,))
    monkeypatch.setattr(flash, "load", lambda shape, *_: (version(shape, package), "a stand-in"))
    jobs = [Job(tuple(random_prompt(length, length, TEXT_VOCAB)), 12) for length in (600, 1, 250, 33)]
    common = {"device": "cpu", "dtype": "float32", "max_num_batched_tokens": 200, "kernels": "torch"}
    plain = run_jobs(make_engine(tmp_path, **common, attention_backend="reference", num_pages=200), jobs)
    engine = make_engine(tmp_path, **common, attention_backend="flash", num_pages=16)
    assert (engine.runner.backend.name, engine.pool.page_size) == ("flash", 256)
    for _ in range(2):
        run = run_jobs(engine, jobs)
        for i in range(len(jobs)):
            assert run.tokens(i) == plain.tokens(i)
    assert any(output.num_cached_tokens for output in run.finals.values())
    assert_idle(engine)


# What is refused, and what is chosen.


def test_pages_are_as_large_as_the_package_wants_them_unless_said_otherwise() -> None:
    assert Setup.of(EngineConfig()).page_size == Setup.of(EngineConfig(page_size=16)).page_size == 16
    assert Setup.of(EngineConfig(attention_backend="flash")).page_size == 256
    assert Setup.of(EngineConfig(attention_backend="flash", page_size=512)).page_size == 512


def test_an_engine_without_cuda_refuses_it_by_name(tmp_path: Path) -> None:
    make_llama(tmp_path, vocab_size=TEXT_VOCAB)
    refused = (
        r"attention_backend is 'flash', but it cannot be had here: it needs device='cuda', and this is cpu; 'auto'"
    )
    with pytest.raises(ValueError, match=refused):
        make_engine(tmp_path, device="cpu", attention_backend="flash")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "find_spec", lambda name: None)
    monkeypatch.setattr(flash, "unfit", lambda *_: None)
    with pytest.raises(ValueError, match=r"package flash-attn is not installed; pip install flash-attn"):
        choose_backend("flash", TorchKernels(), SHAPE, make_cache(SHAPE, 4, 256))


@pytest.mark.parametrize(
    ("dtype", "head_dim", "refused"),
    [
        (torch.float32, 64, r"dtype is float32, and it computes in float16 and bfloat16; set dtype='bfloat16'"),
        (torch.bfloat16, 264, r"heads have 264 numbers, and it takes multiples of 8 up to 256"),
        (torch.float16, 20, r"heads have 20 numbers"),
    ],
)
def test_a_cache_that_no_version_takes_is_refused(dtype: torch.dtype, head_dim: int, refused: str) -> None:
    why = unfit(torch.device("cuda"), dtype, head_dim)
    assert why is not None
    with pytest.raises(ValueError, match=refused):
        raise ValueError(why)
    assert unfit(torch.device("cuda"), torch.bfloat16, 128) is None


def test_pages_of_a_size_that_version_2_cannot_read_are_refused() -> None:
    cache = make_cache(SHAPE, 4, 48)
    why = FlashAttention.refusal(SHAPE, cache)
    assert why == "page_size is 48, and flash-attn 2 needs a multiple of 256; set page_size=256"
    broken = FlashAttention3.refusal(SHAPE, cache)  # for another reason: there is no such package here, or no GPU to it
    assert broken is not None and broken.startswith("FlashAttention-3 failed on this machine: ")


def test_auto_takes_it_where_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from minillm.attention.triton import TritonAttention

    class Triton(TorchKernels):
        name = "triton"

    cache = make_cache(SHAPE, 4, 256)
    reasons: list[str] = []
    backend = FlashAttention(SHAPE, stand_in(2))
    with listen("attention.choose", lambda event: reasons.append(event.reason)):
        monkeypatch.setattr(TritonAttention, "refusal", staticmethod(lambda *_: "its tiles are too large"))
        assert choose_backend("auto", Triton(), SHAPE, cache).name == "reference"
        monkeypatch.setattr(flash, "load", lambda *_: (backend, "flash-attn 2 can be had"))
        assert choose_backend("auto", Triton(), SHAPE, cache) is backend
        monkeypatch.setattr(TritonAttention, "refusal", staticmethod(lambda *_: None))
        assert choose_backend("auto", Triton(), SHAPE, cache).name == "triton"
    assert reasons[0].startswith("its tiles are too large; nor can flash-attn be had: it needs device='cuda'")
    assert reasons[1] == "its tiles are too large; flash-attn 2 can be had"


# The package itself.


@pytest.fixture(params=[FlashAttention, FlashAttention3], ids=["2", "3"])
def installed(request: pytest.FixtureRequest) -> type[FlashAttention]:
    version: type[FlashAttention] = request.param
    if importlib.util.find_spec(version.module) is None:
        pytest.skip(f"the package {version.module} is not installed")
    return version


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_dense_attention(
    installed: type[FlashAttention], dtype: torch.dtype, heads: tuple[int, int, int], kind: str
) -> None:
    for S in (256, 512):
        assert_right(*make_case(KINDS[kind], S, heads, dtype, [None, 1, 100, 256, 5000], installed))


@pytest.mark.gpu
def test_long_contexts_in_many_splits(installed: type[FlashAttention]) -> None:
    lengths = [(9000, 1), (1, 1), (333, 1), (3000, 3000), (8000, 300), (40, 2)]
    assert_right(*make_case(lengths, 256, (16, 8, 128), torch.bfloat16, [None, 1000], installed))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_logits_of_an_engine_are_as_near_to_float32_as_the_reference_is(
    installed: type[FlashAttention], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Chunks, mixed steps, decode from Python and from CUDA graphs; over the steps whose inputs were the same."""
    own = {"head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    make_model(tmp_path, kind, dtype=torch.bfloat16, vocab_size=TEXT_VOCAB, **own)
    prompts = [random_prompt(length, length, TEXT_VOCAB) for length in (601, 1, 250, 33, 255)]
    monkeypatch.setattr(flash, "find_spec", lambda name: True if name == installed.module else None)

    def logits(dtype: str, **settings: Any) -> list[tuple[list[int], Tensor]]:
        common = {"device": "cuda", "dtype": dtype, "num_pages": 200, "max_num_batched_tokens": 200}
        engine = make_engine(tmp_path, **{**common, **settings})
        wanted = settings.get("attention_backend", "triton")
        assert engine.runner.backend.name == wanted
        assert (engine.runner.graphs is None) == (settings.get("enforce_eager", False) or wanted == "reference")
        return greedy_with_logits(engine, prompts, 8)

    exact, torchs = logits("float32", **PLAIN), logits("bfloat16", **PLAIN)
    for eager in (True, False):
        ours = logits("bfloat16", attention_backend="flash", num_pages=40, enforce_eager=eager)
        errors: tuple[list[Tensor], list[Tensor]] = [], []
        for (tokens, right), (a, theirs), (b, got) in zip(exact, torchs, ours):
            for step in range(len(tokens)):
                errors[0].append(theirs[step].float() - right[step])
                errors[1].append(got[step].float() - right[step])
                if len({tokens[step], a[step], b[step]}) > 1:
                    break  # from here on, the inputs are others
        assert len(errors[0]) >= 2 * len(prompts), "hardly any step was compared"
        assert torch.cat(errors[1]).norm() < 1.4 * torch.cat(errors[0]).norm()


@pytest.mark.gpu
def test_auto_takes_triton_also_where_flash_is_installed(installed: type[FlashAttention], tmp_path: Path) -> None:
    make_llama(tmp_path, dtype=torch.bfloat16, vocab_size=TEXT_VOCAB)
    engine = make_engine(tmp_path, device="cuda", dtype="bfloat16", page_size=256, num_pages=8)
    assert engine.runner.backend.name == "triton"
    refused = r"attention_backend is 'flash', but it cannot be had here: .*page_size is 16, .*set page_size=256"
    if importlib.util.find_spec(FlashAttention3.module) is None:
        with pytest.raises(ValueError, match=refused):
            make_engine(tmp_path, device="cuda", dtype="bfloat16", attention_backend="flash", page_size=16)
    with pytest.raises(ValueError, match=r"dtype is float32"):
        make_engine(tmp_path, device="cuda", dtype="float32", attention_backend="flash")
    runner = engine.runner
    assert flash.load(runner.backend.shape, TorchKernels(), runner.kv_cache)[0] is not None
