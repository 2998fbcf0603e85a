"""Lesson 17: mixture of experts.

Turned on: a model whose layers have experts (nano-moe). Where a dense layer has one feed-forward network for every
token, this one has eight, and a small router sends each token through two of them. The model holds much and reads
little: that is what experts buy, for one request. In a batch every token chooses for itself, and more experts are read.
"""

from functools import partial

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=17,
    title="Mixture of experts",
    turns_on="model='nano-moe', 8 experts in every layer, 2 for each token",
    buys="a model that holds more than it reads for a token",
    breaks="moe.route,moe.expert",
    model="nano-moe",
)

from rich.markup import escape

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.compare import before_after
from minillm.debug.views.expert_difference import expert_difference
from minillm.debug.views.expert_map import expert_map, layer_balance, top_experts
from minillm.debug.views.expert_tokens import expert_groups, expert_stream
from minillm.debug.views.router_table import router_table
from minillm.debug.views.spread import as_much
from minillm.debug.views.units import amount, number
from minillm.layers.moe import group_by_expert
from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation, question
from minillm.learn.lessons.lesson_17 import batches, twins
from minillm.learn.lessons.lesson_17.counts import exported, most_one_sided
from minillm.learn.lessons.lesson_17.routing import Routing, compute, look_at, moe_layers
from minillm.learn.lessons.lesson_17.two_ways import two_ways
from minillm.learn.timing import in_turns

LINE = "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()\n"
REPEATS = 3  # of each time that is measured
BATCHES = 1, 2, 4, 8, 16
PLAIN = {"prefix_cache": "none"}  # every prompt is computed, also one that was seen before


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


def one_token(llm, moe) -> None:
    """The question through the model, and all layers' probabilities for one of its tokens."""
    tokenizer, shape = llm.engine.tokenizer, moe.shape
    ids = question(tokenizer, lesson.options.prompt or QUESTION)
    t = len(ids) // 2
    lesson.say(f"""Attention is as before. After it, a dense layer has one feed-forward network. Each layer here has
        {shape.num_experts}, the experts, and a router: one small matrix that gives a token a score for each of them. A
        softmax makes probabilities of the scores, and the best {shape.top_k} compute the token. For the token
        [bold]{escape(lesson.quoted(tokenizer.token(ids[t])))}[/] of the question:""")
    rows = [seen.of(t) for seen in compute(llm, ids, max_tokens=2) if len(seen.logits) == len(ids)]
    lesson.show(router_table(rows))
    top = rows[0]
    chosen = " + ".join(f"{top.probs[expert]:.3f}" for expert in top.experts)
    weighed = " + ".join(f"{weight:.3f} * expert {expert}(x)" for expert, weight in zip(top.experts, top.weights))
    scaled = f"The probabilities chosen in layer {top.layer}, {chosen}, are scaled so that they add up to one. "
    lesson.say(f"""{scaled if shape.renormalise else ""}Layer {top.layer} gives {weighed}. The other experts are not
        computed for this token at all, and no weight of theirs is read. Every layer chooses anew: expert 0 of one layer
        has nothing to do with expert 0 of the next.""")


def token_by_token(llm, here: int) -> None:
    """The question and a few lines of code, each token with its experts in one layer."""
    tokenizer = llm.engine.tokenizer
    lesson.say(f"One layer, number {here}, and two texts. Colours and numbers are experts:")
    for ids in map(tokenizer.encode, (lesson.options.prompt or QUESTION, LINE)):
        experts = next(routed.experts for routed in compute(llm, ids) if routed.layer == here).tolist()
        lesson.show(expert_stream([tokenizer.token(id) for id in ids], experts))
    lesson.say("""The same token may go to other experts in another place: the router sees what attention has made of
        it, not the letters. Look for what the tokens of one colour have in common: in nano-moe it is the part that a
        token plays (a keyword, a name, white space, a word of the glossary), not the subject of the text.""")


def grouped(llm, here: int) -> None:
    """The code's choices in the order of the tokens, then sorted by expert; what was computed, and what that saves."""
    tokenizer = llm.engine.tokenizer
    ids = tokenizer.encode(LINE)
    seen, computed, hidden = look_at(llm, ids, here)
    T, k = seen.experts.shape
    order, counts = group_by_expert(seen.experts, seen.moe.shape.num_experts)
    lesson.say(f"""The code has {T} tokens, so layer {here} has {T} * {k} = {T * k} choices. They are numbered in the
        order of the tokens: choice t * {k} + j is the j-th expert of token t. One after the other, they ask for these
        experts:""")
    lesson.show(" ".join(str(expert) for expert in seen.experts.flatten().tolist()))
    lesson.say("""To compute them in this order would mean to take up another expert's matrices for nearly every row. So
        the engine first sorts the choices by expert (group_by_expert):""")
    lesson.show(expert_groups([tokenizer.token(id) for id in ids], order.tolist(), counts, k))
    lesson.say(f"""The probe moe.expert came by {len(computed)} times in this layer, with
        {", ".join(map(str, computed))} rows: the same numbers:
        [good]{computed == [count for count in counts if count]}[/]. Each expert multiplies all of its rows at once,
        then the rows go back to their tokens and are added up by weight.""")
    compare_grouping(seen, hidden)


def compare_grouping(seen: Routing, hidden) -> None:
    """This layer's experts, choice by choice and grouped: matrices taken up, bytes read, time."""
    rows, same = two_ways(seen, hidden)
    lesson.show(before_after(rows, before="row by row", after="grouped"))
    lesson.say(f"The same numbers, both times: [good]{same}[/].")


def heat_maps(llm) -> ExpertTracker:
    """Glossary talk and Python code, each as a heat map, and their difference; the tracker that counted both."""
    tokenizer = llm.engine.tokenizer
    texts = {"questions": conversation(tokenizer, TALK, QUESTION), "code": tokenizer.encode(PROGRAM)}
    lesson.say("""What stands out in a few tokens may be chance. The expert tracker counts more of them: it listens to
        moe.route and keeps, for every layer and expert, how many tokens chose it. Two kinds of text:""")
    counted: dict[str, ExpertTracker] = {}
    with ExpertTracker(llm) as both:
        for name, ids in texts.items():
            with ExpertTracker(llm) as counted[name]:
                compute(llm, ids)
            lesson.console.print(f"  [title]{name}[/], {len(ids)} tokens\n")
            lesson.show(expert_map(counted[name]))
    lesson.say("And the one less the other. A 0 means that it is all the same to this expert:")
    lesson.show(expert_difference(counted["code"], counted["questions"], ("code", "questions")))
    expert, layer, of_code, of_questions = most_one_sided(counted["code"], counted["questions"])
    lesson.say(f"""The most one-sided is expert {expert} of layer {layer}: {of_code} of the choices with code,
        {of_questions} with questions. Rows that are far apart are layers whose router tells the two kinds of text from
        each other.""")
    return both


def balance(both: ExpertTracker) -> None:
    """How evenly each layer's experts are used, the busiest of all, and the counts as JSON."""
    lesson.say("""If a router sent all tokens to the same few experts, the others would be dead weight. In training a
        second loss (load balancing) pulls towards equal shares. How equal they are, with both texts together:""")
    lesson.show(layer_balance(both))
    lesson.say("The busiest five of all layers. Where experts lie on several devices, the others wait for these:")
    lesson.show(top_experts(both))
    size, keys = exported(both)
    lesson.say(f"All counts as JSON ([bold]tracker.export(path)[/], {amount(size, 'B')}), to plot or to compare:")
    lesson.show(keys)


def what_it_buys(engine, layers: list):
    """Parameters held and met, and the time of a token, against two dense models; the larger one is returned."""
    shape, inner = layers[0].shape, layers[0].experts.inner
    total, left_out = twins.parameters(engine), sum(moe.parameters_left_out for moe in layers)
    widths = {"one as wide as a token's experts": shape.top_k * inner, "one as wide as all": shape.num_experts * inner}
    lesson.say(f"""A model with {shape.num_experts} experts holds {number(total)} parameters, and a token meets
        {number(total - left_out)} of them. One token at a time, an engine waits for memory most of the time, so what
        counts is how many bytes a token reads. Beside it two dense twins, made here and now: attention stays, and in
        the place of all experts of a layer stands one network (of random weights; the clock does not mind), once as
        wide as the {shape.top_k} experts of a token together, once as wide as all {shape.num_experts}:""")
    engines, held = {"experts": engine}, {"experts": total}
    for name, width in widths.items():
        engines[name] = twins.make_dense(lesson.quiet_llm(**PLAIN).engine, width)
        held[name] = twins.parameters_with(total, layers, width)
    ways = {name: partial(batches.serve, one, 1) for name, one in engines.items()}
    experts, narrow, wide = (runs := in_turns(ways, lesson.each(range(REPEATS), "generating with each"))).values()
    lesson.show(twins.in_a_table(held, left_out, runs, engine.dtype.itemsize))
    lesson.say(f"""The first and the last hold about as much, the first and the second read about as much. In {REPEATS}
        rounds in turns, a token of the experts takes {as_much(experts, narrow, "long")} one of the second, and
        {as_much(experts, wide, "long")} one of the third. The nearer to the second's, the more the experts are worth;
        what is between is the router, and small products. How well it answers is decided in training: see the
        papers.""")
    return engines["one as wide as all"]


def in_a_batch(engine, dense, layers: list) -> None:
    """Experts touched, bytes read and time of a step, for more and more requests at once."""
    shape, size = layers[0].shape, engine.dtype.itemsize
    total, matrices = twins.parameters(engine), 3 * layers[0].hidden_size * layers[0].experts.inner * len(layers)
    lesson.say(f"""A step of several requests computes a token of each, and each token has its own {shape.top_k}
        experts. An expert is read if anybody in the batch has chosen it. The more requests, the fewer experts stay
        unread:""")
    shares = {count: batches.touched(engine, count) for count in lesson.each(BATCHES, "counting experts")}
    ways = {(count, one): partial(batches.serve, one, count) for count in BATCHES for one in (engine, dense)}
    runs = in_turns(ways, lesson.each(range(REPEATS), "serving each batch"))
    read = {count: (total - matrices * (shape.num_experts - shares[count])) * size for count in BATCHES}
    times = {count: [runs[count, one] for one in (engine, dense)] for count in BATCHES}
    lesson.show(batches.in_a_table(shares, read, times, shape.num_experts))
    lesson.say(f"""Alone, a request reads {shares[BATCHES[0]]:.1f} experts of a layer; {BATCHES[-1]} together read
        {shares[BATCHES[-1]]:.1f}, and what experts save in memory traffic is nearly gone. Work is still saved: no token
        is computed by more than {shape.top_k}. But each expert gets few rows, and many small products are slower than
        one large one. So engines bring kernels for all experts at once, and spread them over many devices.""")


if __name__ == "__main__":
    lesson.run(main)
