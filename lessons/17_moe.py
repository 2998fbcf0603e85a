"""Lesson 17: mixture of experts.

Turned on: a model whose layers have experts (nano-moe). Where a dense layer has one feed-forward network for every
token, this one has eight, and a small router sends each token through two of them. The model holds much and reads
little: that is what experts buy, for one request. In a batch every token chooses for itself, and more experts are read.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import torch

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.units import amount, number, percent
from minillm.layers.moe import MixtureOfExperts, group_by_expert
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=17,
    title="Mixture of experts",
    turns_on="model='nano-moe', 8 experts in every layer, 2 for each token",
    buys="a model that holds more than it reads for a token",
    breaks="moe.route,moe.expert",
    model="nano-moe",
)
LINE = "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()\n"
TOKENS, REPEATS, PRODUCTS = 24, 3, 20  # of each time that is measured: tokens a request, runs, calls of a layer
BATCHES = 1, 2, 4, 8, 16
PLAIN = {"prefix_cache": "none"}  # every prompt is computed, also one that was seen before


@dataclasses.dataclass
class Seen:
    """One layer's routing of one step: the router's scores [T, E], each token's experts and weights [T, k]."""

    moe: MixtureOfExperts
    layer: int
    logits: torch.Tensor
    experts: torch.Tensor
    weights: torch.Tensor


def main() -> None:
    lesson.part("A router chooses")
    llm = lesson.llm(**PLAIN)
    layers = moe_layers(llm)
    one_token(llm, layers[0])

    lesson.part("Token by token")
    here = layers[2 * len(layers) // 3].layer  # a layer that tells parts of a text apart well
    token_by_token(llm, here)

    lesson.part("Grouped by expert")
    grouped(llm, here)

    lesson.part("Who takes what: a heat map")
    both = heat_maps(llm)

    lesson.part("How evenly the work is spread")
    balance(both)

    lesson.part("What it buys")
    dense = what_it_buys(llm.engine, layers)

    lesson.part("What it costs in a batch")
    in_a_batch(llm.engine, dense, layers)

    lesson.end(
        """Stop where a layer has chosen: [bold]--break moe.route --break-when 'layer == 0'[/]. Look at
        [bold]experts[-1][/] and [bold]weights[-1][/].""",
        "Stop when an expert gets a single row: [bold]--break moe.expert --break-when 'len(rows) == 1'[/].",
        "Ask with [bold]--prompt[/] something that is half English and half Python, and see part 2 change its experts.",
        """Your own prompts as a heat map, also as a picture: [bold]python -m minillm experts --prompt "..." --svg
        experts.svg[/].""",
        "Before you run it, say what BATCHES = 64 does to the last table. Then change it in this file.",
    )


def moe_layers(llm) -> list[MixtureOfExperts]:
    """The layers that have experts. ValueError if the model that the reader chose has none."""
    ExpertTracker(llm)  # says so
    return [module for module in llm.engine.model.modules() if isinstance(module, MixtureOfExperts)]


def note_routes(found: list[Seen]) -> Callable[[Event], None]:
    """A listener for moe.route that keeps a copy of what comes by."""

    def note(event: Event) -> None:
        found.append(Seen(event.moe, event.layer, *(event.values[k].cpu() for k in ("logits", "experts", "weights"))))

    return note


def compute(llm, prompt_ids: list[int], max_tokens: int = 1) -> list[Seen]:
    """Run one prompt; how each layer routed it, step after step."""
    from minillm import SamplingParams

    found: list[Seen] = []
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    with listen("moe.route", note_routes(found)):
        llm.generate([{"prompt_token_ids": prompt_ids}], params, use_tqdm=False)
    return found


def one_token(llm, moe: MixtureOfExperts) -> None:
    """The question through the model, and all layers' probabilities for one of its tokens."""
    from minillm.debug.views.router_table import Routed, router_table
    from minillm.learn.example import QUESTION, question

    tokenizer, shape = llm.get_tokenizer(), moe.shape
    ids = question(tokenizer, lesson.options.prompt or QUESTION)
    t = len(ids) // 2
    lesson.say(
        f"""Attention is as before. After it, a dense layer has one feed-forward network. Each layer here has
        {shape.num_experts}, the experts, and a router: one small matrix that gives a token a score for each of them.
        A softmax makes probabilities of the scores, and the best {shape.top_k} compute the token. For the token
        [bold]{escaped(tokenizer.token(ids[t]))}[/] of the question:"""
    )
    first = [seen for seen in compute(llm, ids, max_tokens=2) if len(seen.logits) == len(ids)]
    probs = [seen.logits[t].float().softmax(dim=-1).tolist() for seen in first]
    rows = [Routed(s.layer, p, s.experts[t].tolist(), s.weights[t].tolist()) for s, p in zip(first, probs)]
    lesson.show(router_table(rows))
    top = rows[0]
    chosen = " + ".join(f"{top.probs[expert]:.3f}" for expert in top.experts)
    weighed = " + ".join(f"{weight:.3f} * expert {expert}(x)" for expert, weight in zip(top.experts, top.weights))
    scaled = f"The probabilities chosen in layer {top.layer}, {chosen}, are scaled so that they add up to one. "
    lesson.say(
        f"""{scaled if shape.renormalise else ""}Layer {top.layer} gives {weighed}. The other experts are not
        computed for this token at all, and no weight of theirs is read. Every layer chooses anew: expert 0 of one
        layer has nothing to do with expert 0 of the next."""
    )


def escaped(text: str) -> str:
    """A token's text in quotes, with nothing in it that rich would take for markup."""
    from rich.markup import escape

    return escape(repr(text))


def token_by_token(llm, here: int) -> None:
    """The question and a few lines of code, each token with its experts in one layer."""
    from minillm.debug.views.expert_tokens import expert_stream
    from minillm.learn.example import QUESTION

    tokenizer = llm.get_tokenizer()
    lesson.say(f"One layer, number {here}, and two texts. Colours and numbers are experts:")
    for text in (lesson.options.prompt or QUESTION, LINE):
        ids = tokenizer.encode(text)
        seen = next(routed for routed in compute(llm, ids) if routed.layer == here)
        lesson.show(expert_stream([tokenizer.token(id) for id in ids], seen.experts.tolist()))
    lesson.say(
        """The same token may go to other experts in another place: the router sees what attention has made of it,
        not the letters. Look for what the tokens of one colour have in common: in nano-moe it is the part that a
        token plays (a keyword, a name, white space, a word of the glossary), not the subject of the text. Nobody
        told it so."""
    )


def grouped(llm, here: int) -> None:
    """The code's choices in the order of the tokens, then sorted by expert; what was computed, and what that saves."""
    from minillm.debug.views.expert_tokens import expert_groups

    tokenizer, heard, inputs = llm.get_tokenizer(), [], []
    ids = tokenizer.encode(LINE)
    with (
        listen("moe.expert", lambda event: heard.append((event.layer, event.expert, len(event.rows)))),
        listen("layer.mlp", lambda event: inputs.append((event.layer, event.hidden.clone()))),
    ):
        seen = next(routed for routed in compute(llm, ids) if routed.layer == here)
    T, k = seen.experts.shape
    order, counts = group_by_expert(seen.experts, seen.moe.shape.num_experts)
    lesson.say(
        f"""The code has {T} tokens, so layer {here} has {T} * {k} = {T * k} choices. They are numbered in the order
        of the tokens: choice t * {k} + j is the j-th expert of token t. One after the other, they ask for these
        experts:"""
    )
    lesson.show(" ".join(str(expert) for expert in seen.experts.flatten().tolist()))
    lesson.say(
        """To compute them in this order would mean to take up another expert's matrices for nearly every row. So the
        engine first sorts the choices by expert (group_by_expert):"""
    )
    lesson.show(expert_groups([tokenizer.token(id) for id in ids], order.tolist(), counts, k))
    computed = [rows for layer, _, rows in heard if layer == here]
    lesson.say(
        f"""The probe moe.expert came by {len(computed)} times in this layer, with {", ".join(map(str, computed))}
        rows: the same numbers: [good]{computed == [count for count in counts if count]}[/]. Each expert multiplies
        all of its rows at once, then the rows go back to their tokens and are added up by weight."""
    )
    hidden = next(rows for layer, rows in inputs if layer == here)
    compare_grouping(seen, hidden, sum(count > 0 for count in counts))


@torch.inference_mode()
def compare_grouping(seen: Seen, hidden: torch.Tensor, used: int) -> None:
    """This layer's experts, choice by choice and grouped: matrices taken up, bytes read, time."""
    from minillm.debug.views.compare import before_after

    moe, (T, k) = seen.moe, seen.experts.shape
    experts, choices = seen.experts.to(hidden.device), seen.experts.flatten().tolist()
    size = 3 * moe.hidden_size * moe.experts.inner * hidden.itemsize

    def one_by_one() -> torch.Tensor:
        rows = [moe.compute_one(hidden[i // k, None], expert) for i, expert in enumerate(choices)]
        return torch.cat(rows).view(T, k, -1)

    def together() -> torch.Tensor:
        return moe.compute(hidden, experts)

    same = torch.allclose(one_by_one(), together(), rtol=1e-3, atol=1e-3)
    times: dict[Callable, list[float]] = {one_by_one: [], together: []}
    for _ in range(PRODUCTS):
        for way, taken in times.items():
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    lesson.show(
        before_after(
            [
                ("experts taken up", T * k, used, "", "lower"),
                ("weights read", T * k * size, used * size, "B", "lower"),
                ("time for this layer's experts", *(median(taken) for taken in times.values()), "s", "lower"),
            ],
            before="row by row",
            after="grouped",
        )
    )
    lesson.say(f"The same numbers, both times: [good]{same}[/].")


def heat_maps(llm) -> ExpertTracker:
    """Glossary talk and Python code, each as a heat map, and their difference; the tracker that counted both."""
    from minillm.debug.views.expert_difference import expert_difference
    from minillm.debug.views.expert_map import expert_map
    from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation

    tokenizer = llm.get_tokenizer()
    texts = {"questions": conversation(tokenizer, TALK, QUESTION), "code": tokenizer.encode(PROGRAM)}
    lesson.say(
        """What stands out in a few tokens may be chance. The expert tracker counts more of them: it listens to
        moe.route and keeps, for every layer and expert, how many tokens chose it. Two kinds of text:"""
    )
    counted: dict[str, ExpertTracker] = {}
    with ExpertTracker(llm) as both:
        for name, ids in texts.items():
            with ExpertTracker(llm) as counted[name]:
                compute(llm, ids)
            lesson.console.print(f"  [title]{name}[/], {len(ids)} tokens\n")
            lesson.show(expert_map(counted[name]))
    lesson.say("And the one less the other. A 0 means that it is all the same to this expert:")
    lesson.show(expert_difference(counted["code"], counted["questions"], ("code", "questions")))
    points = counted["code"].shares() - counted["questions"].shares()
    layer, expert = divmod(int(abs(points).argmax()), points.shape[1])
    shares = (percent(counted[name].shares()[layer, expert], 1) for name in ("code", "questions"))
    lesson.say(
        """The most one-sided is expert {} of layer {}: {} of the choices with code, {} with questions. Rows that are
        far apart are layers whose router tells the two kinds of text from each other.""".format(
            expert, both.layer_ids[layer], *shares
        )
    )
    return both


def balance(both: ExpertTracker) -> None:
    """How evenly each layer's experts are used, the busiest of all, and the counts as JSON."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.expert_map import layer_balance, top_experts
    from minillm.debug.views.table import Cells, Col, table

    lesson.say(
        """If a router sent all tokens to the same few experts, the others would be dead weight. In training a second
        loss (load balancing) pulls towards equal shares. How equal they are, with both texts together:"""
    )
    lesson.show(layer_balance(both))
    lesson.say("The busiest five of all layers. Where experts lie on several devices, the others wait for these:")
    lesson.show(top_experts(both))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experts.json"
        both.export(path)
        size, kept = path.stat().st_size, json.loads(path.read_text(encoding="utf-8"))
    layer, experts = next(iter(kept["expert_stats"].items()))
    lesson.say(f"All counts as JSON ([bold]tracker.export(path)[/], {amount(size, 'B')}), to plot or to compare:")
    rows: list[Cells] = [
        ["expert_stats", "layer, expert", ", ".join(next(iter(experts.values())))],
        ["layer_stats", "layer", ", ".join(kept["layer_stats"][layer])],
        ["top_experts", "rank", f"as in expert_stats; {len(kept['top_experts'])} of them, the busiest first"],
    ]
    columns = [Col("key"), Col("then", wraps=True), Col("and there", wraps=True)]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))


def what_it_buys(engine, layers: list[MixtureOfExperts]):
    """Parameters held and met, and the time of a token, against two dense models; the larger one is returned."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    shape, inner = layers[0].shape, layers[0].experts.inner
    total, left_out = parameters(engine), sum(moe.parameters_left_out for moe in layers)
    widths = {"one as wide as a token's experts": shape.top_k * inner, "one as wide as all": shape.num_experts * inner}
    lesson.say(
        f"""A model with {shape.num_experts} experts holds {number(total)} parameters, and a token meets
        {number(total - left_out)} of them. One token at a time, an engine waits for memory most of the time, so what
        counts is how many bytes a token reads. Beside it two dense twins, made here and now: attention stays, and in
        the place of all experts of a layer stands one network (of random weights; the clock does not mind), once as
        wide as the {shape.top_k} experts of a token together, once as wide as all {shape.num_experts}:"""
    )
    engines = {"experts": engine, **{name: dense_twin(width) for name, width in widths.items()}}
    held = [total, *(total - sum(map(expert_numbers, layers)) + len(layers) * 3 * layers[0].hidden_size * width
                     for width in widths.values())]  # fmt: skip
    met = [total - left_out, *held[1:]]
    runs = [[serve(one, 1) for one in engines.values()] for _ in lesson.each(range(REPEATS), "generating with each")]
    columns = [Col("in each layer", wraps=True), *(Col(title, "right", wraps=True) for title in ("parameters",
               "a token meets", "bytes read", "time a token"))]  # fmt: skip
    rows = [
        [name, number(all), number(some), amount(some * engine.dtype.itemsize, "B"), amount(median(times), "s")]
        for name, all, some, times in zip(engines, held, met, zip(*runs))
    ]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        """The first and the last hold about as much, the first and the second read about as much. The nearer the
        experts' time is to the second's, the more they are worth; what is between is the router, and small products
        instead of large ones. Whether a model answers as well is decided in training: see the chapter's papers."""
    )
    return engines["one as wide as all"]


def parameters(engine) -> int:
    """Of the whole model, counted on one that is built without memory: loading may have packed the real ones."""
    from minillm.layers.build import LayerBuild
    from minillm.models.weights import build_model

    return sum(p.numel() for p in build_model(engine.model_config, LayerBuild(engine.dtype)).parameters())


def expert_numbers(moe: MixtureOfExperts) -> int:
    """Parameters of a layer that a dense twin has not: all experts, and the router."""
    return moe.shape.num_experts * (3 * moe.experts.inner + 1) * moe.hidden_size


def dense_twin(width: int):
    """The same model again, with one network of this width in the place of each layer's experts. Weights are random."""
    from minillm.layers.build import LayerBuild
    from minillm.models.llama import LlamaMLP
    from minillm.quantization.format import OneFormat
    from minillm.quantization.packed import choose_format
    from minillm.worker.platform import choose_kernels

    engine = lesson.quiet_llm(**PLAIN).engine
    kernels = choose_kernels(engine.config.kernels, engine.device, engine.dtype)
    format = choose_format(engine.device, engine.dtype, engine.config.pack_weights, kernels)
    config = dataclasses.replace(engine.model_config, intermediate_size=width)
    for layer in engine.model.model.layers:
        if isinstance(layer.mlp, MixtureOfExperts):
            with engine.device:
                layer.mlp = LlamaMLP(config, LayerBuild(engine.dtype, OneFormat(format), kernels))
            for linear in (layer.mlp.gate_up_proj, layer.mlp.down_proj):
                torch.nn.init.normal_(linear.weight, std=0.02)
                linear.process_weights_after_loading()
    return engine


def serve(engine, requests: int) -> float:
    """The median time of a decode step with so many requests, each of another text."""
    from minillm.learn.timing import time_steps

    add_requests(engine, requests)
    seconds, _ = time_steps(engine)
    return median(seconds[1:])


def add_requests(engine, requests: int) -> None:
    """Beginnings of different texts: pieces of the glossary talk and of the code."""
    from minillm import SamplingParams
    from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation

    tokenizer = engine.tokenizer
    ids = [*tokenizer.encode(PROGRAM), *conversation(tokenizer, TALK, QUESTION)]
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    for i in range(requests):
        start = i * (len(ids) - 8) // max(requests, 2)
        engine.add_request(ids[start : start + 8], params)


def touched(engine, requests: int) -> float:
    """How many experts of a layer compute in a decode step of so many requests, on average."""
    found: list[Seen] = []
    add_requests(engine, requests)
    with listen("moe.route", note_routes(found)):
        while engine.has_requests:
            engine.step()
    return mean(len(routed.experts.unique()) for routed in found if len(routed.experts) == requests)


def in_a_batch(engine, dense, layers: list[MixtureOfExperts]) -> None:
    """Experts touched, bytes read and time of a step, for more and more requests at once."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    shape, size = layers[0].shape, engine.dtype.itemsize
    total, matrices = parameters(engine), 3 * layers[0].hidden_size * layers[0].experts.inner * len(layers)
    lesson.say(
        f"""A step of several requests computes a token of each, and each token has its own {shape.top_k} experts. An
        expert is read if anybody in the batch has chosen it. The more requests, the fewer experts stay unread:"""
    )
    shares = {count: touched(engine, count) for count in lesson.each(BATCHES, "counting experts")}
    rounds = lesson.each(range(REPEATS), "serving each batch")
    runs = [{count: (serve(engine, count), serve(dense, count)) for count in BATCHES} for _ in rounds]
    headings = ("requests", f"experts read, of {shape.num_experts}", "weights read", "a step", "dense, as wide as all")
    columns, rows = [Col(heading, "right", wraps=True) for heading in headings], []
    for count in BATCHES:
        read = total - matrices * (shape.num_experts - shares[count])
        times = [median(run[count][i] for run in runs) for i in (0, 1)]
        rows.append([str(count), f"{shares[count]:.1f}", amount(read * size, "B"), *(amount(t, "s") for t in times)])
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    alone, many = shares[BATCHES[0]], shares[BATCHES[-1]]
    lesson.say(
        f"""Alone, a request reads {alone:.1f} experts of a layer; {BATCHES[-1]} together read {many:.1f}, and what
        experts save in memory traffic is nearly gone. Work is still saved: no token is computed by more than
        {shape.top_k}. But each expert gets few rows, and many small products are slower than one large one. That is
        why engines bring kernels for all experts at once, and spread the experts of a large model over many devices."""
    )


if __name__ == "__main__":
    lesson.run(main)
