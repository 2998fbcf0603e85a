"""The flash-attn backend: how it calls the package (anywhere, with a stand-in), what it refuses, and the package itself
(on a GPU where it is installed)."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from flash_stand_in import dense, stand_in
from parity import greedy_with_logits, random_prompt
from tiny import TEXT_VOCAB, make_llama, make_model
from torch import Tensor
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.attention import flash
from minillm.attention.backend import AttentionBackend, choose_backend
from minillm.attention.batch import ForwardBatch
from minillm.attention.flash import FlashAttention, FlashAttention3, choose_flash, unfit
from minillm.config import EngineConfig
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache
from minillm.model_config import ModelConfig
from minillm.probe import listen
from minillm.setup import Setup

CPU = torch.device("cpu")
PLAIN = {"kernels": "torch", "attention_backend": "reference"}
KINDS = {  # (context, queries) of each request
    "decode": [(1, 1), (256, 1), (257, 1), (700, 1)],
    "prefill": [(5, 5), (256, 256), (300, 300)],
    "chunk": [(300, 7), (600, 256), (256, 2)],
    "mixed": [(300, 1), (3, 1), (12, 12), (520, 9), (257, 256)],
}
HEADS = [(4, 4, 64), (6, 2, 96), (14, 2, 64), (16, 8, 128), (4, 1, 128)]
packages = pytest.mark.parametrize("version", [FlashAttention, FlashAttention3], ids=["2", "3"])


def make_case(
    lengths: list[tuple[int, int]], S: int, heads: tuple[int, int, int], dtype: torch.dtype, backend: AttentionBackend
) -> tuple[ForwardBatch, Tensor, list[Tensor]]:
    """A batch of (context, queries) requests over shuffled pages, its queries ``[T, H, D]``, and each request's pages.
    One page more than needed stands in the table's rows, as in an engine that looks ahead."""
    device, (H, Hkv, D) = torch.device("cuda" if torch.cuda.is_available() else "cpu"), heads
    pages = [-(-context // S) for context, _ in lengths]
    cache = KVCache(ModelConfig("", 10, H * D, 1, 2, H, Hkv, D, 4096), sum(pages) + 3, S, Hkv, dtype, device)
    cache.tensor.normal_()
    numbers = list(torch.randperm(cache.num_pages, device=device)[: sum(pages)].split(pages))
    table = torch.zeros(len(lengths), max(pages) + 1, dtype=torch.int64, device=device)
    for row, own in zip(table, numbers):
        row[: len(own)] = own
    some = torch.zeros(1, dtype=torch.int64, device=device)
    contexts, counts = [context for context, _ in lengths], [count for _, count in lengths]
    singles = counts.count(1)
    batch = ForwardBatch(some, some, some, table, contexts, counts, singles, None, cache, backend)
    batch.plan = backend.prepare(batch)
    fused = torch.randn(sum(counts), H + 2 * Hkv, D, dtype=dtype, device=device)
    return batch, fused[:, :H], numbers  # rows that do not touch, as the model has them


def expected(batch: ForwardBatch, q: Tensor, numbers: list[Tensor], window: int | None) -> Tensor:
    """Dense attention in float64: ``[T, H * D]``."""
    Hkv, D = batch.kv_cache.tensor.shape[-2:]
    seen = (-1 if window is None else window - 1, 0)
    answers = []
    for piece, own, context in zip(q.split(batch.query_lens), numbers, batch.context_lens):
        kv = batch.kv_cache.layer(1)[own].reshape(-1, 2, Hkv, D)[:context]
        answers.append(dense(piece, (kv[:, 0], kv[:, 1]), D**-0.5, seen, causal=True))
    return torch.cat(answers).flatten(1)


def assert_right(batch: ForwardBatch, q: Tensor, numbers: list[Tensor], window: int | None) -> None:
    got = batch.backend.attend(1, q, batch, q.shape[-1] ** -0.5, window)
    assert got.dtype == q.dtype and got.shape == (len(q), q.shape[1] * q.shape[2])
    tolerance = 2e-2 if q.dtype == torch.bfloat16 else 3e-3
    torch.testing.assert_close(got.double(), expected(batch, q, numbers, window), atol=tolerance, rtol=tolerance)


@packages
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 1, 100, 256, 5000])
def test_how_the_package_is_called(version: type[FlashAttention], kind: str, window: int | None) -> None:
    backend = version(stand_in(3 if version is FlashAttention3 else 2))
    assert_right(*make_case(KINDS[kind], 256, (6, 2, 16), torch.bfloat16, backend), window)


@packages
def test_layers_with_and_without_a_window_share_one_plan(version: type[FlashAttention]) -> None:
    backend = version(stand_in(3 if version is FlashAttention3 else 2))
    case = make_case(KINDS["mixed"], 512, (4, 4, 8), torch.float16, backend)
    for window in (7, None, 400, 7):
        assert_right(*case, window)


def test_version_3_takes_pages_of_any_size() -> None:
    for S in (1, 16, 48):
        case = make_case(
            [(50, 1), (7, 1), (40, 40), (64, 9)], S, (4, 2, 16), torch.bfloat16, FlashAttention3(stand_in(3))
        )
        assert_right(*case, None)


@packages
def test_a_fixed_plan_takes_the_page_table_of_the_batch(version: type[FlashAttention]) -> None:
    """As in a CUDA graph: the table is int32 and as wide as it may get, and lengths are written before each replay."""
    backend = version(stand_in(3 if version is FlashAttention3 else 2))
    batch, q, numbers = make_case(KINDS["decode"], 256, (6, 2, 16), torch.bfloat16, backend)
    lengths = torch.tensor(batch.context_lens, dtype=torch.int32, device=q.device)
    batch.page_table = torch.nn.functional.pad(batch.page_table, (0, 9)).int()
    batch.plan = backend.fixed_plan(lengths, lengths[:1], batch.kv_cache)
    for window in (None, 100):
        assert_right(batch, q, numbers, window)


@packages
def test_an_engine_gives_the_tokens_of_the_reference(
    version: type[FlashAttention], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts over several pages, prompts in chunks, prefixes from the cache. The stand-in takes float32 here, so
    that greedy tokens can be compared."""
    make_llama(tmp_path, vocab_size=TEXT_VOCAB, max_position_embeddings=1024)
    package = stand_in(3 if version is FlashAttention3 else 2, (torch.float32,))
    monkeypatch.setattr(flash, "choose_flash", lambda *_: (version(package), "a stand-in"))
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
    with pytest.raises(ValueError, match=r"package flash-attn is not installed; pip install flash-attn"):
        choose_backend("flash", TorchKernels())


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
    cache = KVCache(ModelConfig("", 10, 64, 1, 1, 4, 4, 16, 4096), 4, 48, 4, torch.bfloat16, CPU)
    why = FlashAttention.refusal(cache, 4)
    assert why == "page_size is 48, and flash-attn 2 needs a multiple of 256; set page_size=256"
    broken = FlashAttention3.refusal(cache, 4)  # for another reason: there is no such package here, or no GPU to it
    assert broken is not None and broken.startswith("FlashAttention-3 failed on this machine: ")


def test_auto_takes_it_where_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from minillm.attention.triton import TritonAttention

    class Triton(TorchKernels):
        name = "triton"

    cache = KVCache(ModelConfig("", 10, 64, 1, 1, 4, 4, 16, 4096), 4, 256, 4, torch.bfloat16, CPU)
    reasons: list[str] = []
    backend = FlashAttention(stand_in(2))
    with listen("attention.choose", lambda event: reasons.append(event.reason)):
        monkeypatch.setattr(TritonAttention, "refusal", staticmethod(lambda *_: "its tiles are too large"))
        assert choose_backend("auto", Triton(), cache, 4).name == "reference"
        monkeypatch.setattr(flash, "choose_flash", lambda *_: (backend, "flash-attn 2 can be had"))
        assert choose_backend("auto", Triton(), cache, 4) is backend
        monkeypatch.setattr(TritonAttention, "refusal", staticmethod(lambda *_: None))
        assert choose_backend("auto", Triton(), cache, 4).name == "triton"
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
        case = make_case(KINDS[kind], S, heads, dtype, installed())
        for window in (None, 1, 100, 256, 5000):
            assert_right(*case, window)


@pytest.mark.gpu
def test_long_contexts_in_many_splits(installed: type[FlashAttention]) -> None:
    lengths = [(9000, 1), (1, 1), (333, 1), (3000, 3000), (8000, 300), (40, 2)]
    case = make_case(lengths, 256, (16, 8, 128), torch.bfloat16, installed())
    for window in (None, 1000):
        assert_right(*case, window)


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
    assert choose_flash(TorchKernels(), engine.runner.kv_cache, 4)[0] is not None
