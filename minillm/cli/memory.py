"""``minillm memory``: what a model needs and how many tokens fit, from its config alone."""

from dataclasses import replace
from typing import Any

import torch
from rich.table import Table
from torch import nn

from minillm.cli.options import parse_bytes
from minillm.config import EngineConfig
from minillm.debug.views.theme import make_console
from minillm.hub import resolve_model
from minillm.kvcache.pages import pages_for
from minillm.kvcache.storage import KVSpec
from minillm.layers.build import LayerBuild
from minillm.layers.moe import MixtureOfExperts
from minillm.models.weights import build_model
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory, show_bytes
from minillm.worker.memory import MemoryPlan, most_that_fits, plan_memory
from minillm.worker.platform import Platform


def run(available: str | None, **settings: Any) -> None:
    """Print the table. ``available`` means some other device of that much memory; without it, this machine's."""
    config = EngineConfig.from_settings(**settings)
    setup = Setup.of(config, folder=resolve_model(config.model, config_only=True))
    if available:
        size = parse_bytes(available)
        memory, where = DeviceMemory(torch.device("cuda"), size, size), f"{available} asked about"
        own = getattr(torch, setup.model_config.dtype) if config.dtype == "auto" else setup.dtype
        setup = replace(setup, dtype=own)
        build = LayerBuild(own)
    else:
        memory = DeviceMemory.look(setup.device)
        of_all = f", of {show_bytes(memory.total)}" if memory.total > memory.free else ""
        where = f"free here, on {setup.device.type}{of_all}"
        build = Platform(setup).layer_build
    model = build_model(setup.model_config, build)
    plan = most_that_fits(setup, model, memory)
    cpu, fits = memory.device.type == "cpu", plan.left >= 0 and longest(setup, plan) >= 1
    taken = plan_memory(setup, model, memory) if cpu and fits else None
    console = make_console()
    console.print(make_table(setup, model, plan, where, taken))
    console.print(verdict(setup, plan, cpu))


def make_table(setup: Setup, model: nn.Module, plan: MemoryPlan, where: str, taken: MemoryPlan | None = None) -> Table:
    """One row a quantity: its name, how it comes about, how much it is. ``taken``: less than what fits, and why."""
    config, dtype = setup.config, str(setup.dtype).removeprefix("torch.")
    title = f"{config.model} ({setup.model_config.architecture}) in {dtype}"
    table = Table(title=title, title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("how it comes about", overflow="fold")
    table.add_column("how much", justify="right", no_wrap=True)
    room = f"gpu_memory_utilization = {config.gpu_memory_utilization}"
    sections: list[list[tuple[str, str, str]]] = [
        what_it_needs(setup, model, plan),
        [
            ("memory", where, show_bytes(plan.free)),
            ("of it, to use", room, show_bytes(plan.limit)),
            ("left for KV", "to use - weights - activations", show_bytes(plan.left)),
        ],
        [("pages it takes", taken.why, f"{taken.num_pages:,}")] if taken else [],
        [
            ("pages that fit", "left for KV / a page", f"{plan.num_pages:,}"),
            ("tokens that fit", f"pages * {plan.page_size}", f"{plan.cached_tokens:,}"),
            ("longest requests", f"at once, of max_model_len = {setup.max_model_len}", f"{longest(setup, plan):,}"),
        ],
    ]
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def what_it_needs(setup: Setup, model: nn.Module, plan: MemoryPlan) -> list[tuple[str, str, str]]:
    """The rows on the model itself, whatever the machine."""
    config, c, dtype = setup.config, setup.model_config, setup.dtype
    size, parameters = dtype.itemsize, sum(p.numel() for p in model.parameters())
    L, Hkv, D = c.num_hidden_layers, c.num_key_value_heads, c.head_dim
    kv = KVSpec.of(c, Hkv, dtype).bytes_per_token
    copy = plan.weights - parameters * size
    packed = f", and {show_bytes(copy)}: the tied table, packed for the head" if copy else ""
    step = f"a step of {config.max_num_batched_tokens} tokens, {config.max_num_seqs} rows of logits"
    page = f"{plan.page_size} tokens * {kv:,} bytes = {plan.page_bytes:,} bytes"
    formula = f"2 * L * Hkv * D * bytes = 2 * {L} * {Hkv} * {D} * {size} = {kv:,} bytes"
    return [
        ("parameters", "a tied table counts once" if c.tie_word_embeddings else "", f"{parameters:,}"),
        *met_by_a_token(model, parameters),
        ("weights", f"parameters * {size} bytes{packed}", show_bytes(plan.weights)),
        ("KV of a token", formula, show_bytes(kv)),
        ("a page", page, show_bytes(plan.page_bytes)),
        ("activations", step, show_bytes(plan.activations)),
    ]


def met_by_a_token(model: nn.Module, parameters: int) -> list[tuple[str, str, str]]:
    """Of a mixture of experts, how many of the ``parameters`` one token meets; nothing to say of a dense model."""
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    if not layers:
        return []
    shapes = {f"{moe.shape.top_k} of {moe.shape.num_experts}": moe for moe in layers}
    how = f"all but the experts it is not given: {', '.join(shapes)} compute it"
    return [("a token meets", how, f"{parameters - sum(moe.parameters_left_out for moe in layers):,}")]


def longest(setup: Setup, plan: MemoryPlan) -> int:
    """How many requests of the whole context limit fit at the same time."""
    return plan.num_pages // pages_for(setup.max_model_len, plan.page_size)


def verdict(setup: Setup, plan: MemoryPlan, cpu: bool) -> str:
    """Whether it runs, in words, and what to change if not."""
    if plan.limit > plan.free:
        share = setup.config.gpu_memory_utilization
        return (
            f"The engine will not start: gpu_memory_utilization={share} is a share of all of "
            f"the device's memory, and only {show_bytes(plan.free)} are free."
        )
    if plan.left < 0:
        return f"It does not fit: {show_bytes(-plan.left)} are lacking for weights and activations alone."
    if longest(setup, plan) < 1:
        return f"Not even one request of max_model_len fits; a --max-model-len of at most {plan.cached_tokens} does."
    if cpu:
        return (
            "On a CPU the engine takes 1 GiB of this for the cache, or what one longest request needs, unless "
            "kv_cache_memory_bytes, max_cached_tokens or num_pages says otherwise."
        )
    return (
        "It fits. On a GPU the engine measures a step of its own at its start, and what CUDA takes; the pages follow."
    )
