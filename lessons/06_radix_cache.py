"""Lesson 06: the radix cache.

Turned on: ``prefix_cache="radix"``. Most prompts begin like another one: the same instructions, the same document, the
same conversation a turn longer. Their keys and values are the same too, so the pages that hold them can be used again.
A tree of token runs finds them; who comes later computes only what is new.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from minillm.debug.views.theme import letter
from minillm.debug.views.units import amount
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=6,
    title="The radix cache",
    turns_on="prefix_cache='radix' (before: 'none')",
    buys="prompts whose beginning is known need not be computed again",
    breaks="radix.split,radix.match,radix.evict",
)
PAGE = 4  # tokens of a page: small, so that short prompts fill some
WRITES = 12  # tokens that each request wants
GROWS = 26  # tokens that a request wants of a cache that is too small
QUESTIONS = 4  # asked of each instruction, in the last part
ROUNDS = 3


def main() -> None:
    lesson.part("A request ends, its pages stay")
    engine = lesson.llm(prefix_cache="radix", page_size=PAGE, max_cached_tokens=1024).engine
    prompts = the_prompts(engine.tokenizer)
    one_prompt(engine, prompts["a question"])

    lesson.part("Another ending: a node is split")
    another_ending(engine, prompts["another ending"])

    lesson.part("The tree grows")
    tree_grows(engine, [prompts["a long talk"], prompts["code"], prompts["a question"]])

    lesson.part("A hit skips the prefill")
    hit(engine, prompts["a long talk"], prompts["the talk, another ending"])

    lesson.part("Memory runs out: the oldest leaf goes")
    eviction(prompts, engine.tokenizer)

    lesson.part("Who comes first? What is cached")
    policies(engine.tokenizer)

    lesson.part("Before and after")
    before_and_after()

    lesson.end(
        """Stop where a node is about to be cut: [bold]--break radix.split[/]. Type [bold]tree()[/], then
        [bold]n[/] until the cut is done, then [bold]tree()[/] again.""",
        """Only hits of a hundred tokens and more: [bold]--break radix.match --break-when 'len(pages) > 25'[/].""",
        "Every look-up, split, insertion and eviction as a line: [bold]--log 'radix.*'[/].",
        "Before you run it, say what PAGE = 2 changes in the second part. Then change it in this file.",
    )


def the_prompts(tokenizer) -> dict[str, list[int]]:
    """The running example, and its long talk once more with another last question."""
    from minillm.learn.example import OTHER_ENDING, TALK, conversation, question, running_example

    prompts = running_example(tokenizer)
    if lesson.options.prompt:
        prompts["a question"] = question(tokenizer, lesson.options.prompt)
    return {**prompts, "the talk, another ending": conversation(tokenizer, TALK, OTHER_ENDING)}


def ask(engine, prompt_ids: list[int], tokens: int = WRITES):
    """Add a request; nothing runs yet."""
    from minillm import SamplingParams

    return engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))


def finish(engine) -> None:
    while engine.has_requests:
        engine.step()


def tree(engine, before=None, order: bool = False):
    from minillm.debug.views.radix_tree import radix_tree

    scheduler = engine.scheduler
    return radix_tree(scheduler.cache, scheduler.running, engine.tokenizer, before, order)


def one_prompt(engine, prompt_ids: list[int]) -> None:
    """A request while it runs, and after: its path is locked, then it is not."""
    from minillm.debug.views.page_map import page_map

    request = ask(engine, prompt_ids)
    engine.step()
    full = request.num_computed // PAGE
    lesson.say(
        f"""A is the question, with {len(prompt_ids)} tokens. One step computes them, and fills {full} pages of {PAGE}
        tokens; the rest of the prompt lies in a page that is not full yet. A full page is never written again: so the
        tree takes it in at once, for others to find. A node of the tree is a run of tokens and the pages that hold
        them:"""
    )
    lesson.show(tree(engine))
    finish(engine)
    lesson.say(
        f"""While A runs, its path is locked: nobody takes these pages away. A has written {WRITES} tokens and ended.
        Without the tree its pages would be free now. But the tree has a reference of its own to each page, and keeps
        them, until somebody needs the memory. Only a page that is not full goes back:"""
    )
    lesson.show(tree(engine), page_map(engine.pool, [], max_pages=32))


def another_ending(engine, prompt_ids: list[int]) -> None:
    """The split, from the probes on its two sides, and what is left to compute."""
    from minillm.debug.views.prefix_hit import prefix_hit
    from minillm.debug.views.radix_tree import remember

    before, seen = remember(engine.scheduler.cache), []
    request = ask(engine, prompt_ids)
    lesson.say(
        f"""B begins like A, and ends otherwise. Before it is admitted, the scheduler walks down the tree with B's
        {len(prompt_ids)} tokens, page by page, as far as they are the same. That is in the middle of A's node. So the
        node is cut: what both have becomes a node of its own, above. The tree when B has been looked up, and nothing of
        it has been computed:"""
    )
    with listen("radix.match", lambda event: seen.extend([tree(engine, before), len(event.pages) * PAGE])):
        engine.step()
    if not seen:
        lesson.say("(B shares no whole page with the question that you gave, so nothing is cut, and all is computed.)")
    lesson.show(*seen[:1])
    lesson.say("What B finds it takes, and what it does not find it computes. Only whole pages can be shared:")
    lesson.show(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer))
    lesson.say("After the step B's full pages are in the tree as well, beside A's rest:")
    lesson.show(tree(engine, before))
    finish(engine)


def tree_grows(engine, prompts: list[list[int]]) -> None:
    """Three more at once, one of them a question that was asked before."""
    from minillm.debug.views.page_map import page_map
    from minillm.debug.views.prefix_hit import prefix_hit
    from minillm.debug.views.radix_tree import remember

    before = remember(engine.scheduler.cache)
    requests = [ask(engine, prompt_ids) for prompt_ids in prompts]
    engine.step()
    lesson.say("""C is the long talk, D the code, and E asks A's question again. One step admits all three:""")
    lesson.show(*(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer) for request in requests))
    lesson.say(
        """E's prompt was computed before, to its last token, and still two are left: they only begin a page. And of a
        prompt that fills its pages to the last slot, the last page is left: without a token to compute there would be
        no scores to choose the next one from. The tree now:"""
    )
    lesson.show(tree(engine, before))
    lesson.say("The same in the page map. A page with two letters is in two page tables, and in memory once:")
    lesson.show(page_map(engine.pool, engine.scheduler.running, max_pages=96))
    finish(engine)


def hit(engine, known: list[int], prompt_ids: list[int]) -> None:
    """One long prompt with an empty cache and with what the tree knows: the plan, and the time to the first token."""
    from minillm.debug.views.batch_table import batch_table
    from minillm.debug.views.prefix_hit import prefix_hit

    request, plans = ask(engine, prompt_ids), []
    with listen("scheduler.plan", lambda event: plans.append(event.plan)):
        engine.step()
    lesson.say(
        f"""{letter(request.id)} is the long talk again, with another last question. Of its {len(prompt_ids)} tokens,
        the first {request.num_cached} are known:"""
    )
    lesson.show(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer))
    lesson.say("So the step that admits it begins at that position, and computes the few that are left:")
    lesson.show(batch_table(plans[0], [request], engine.config.max_num_batched_tokens))
    finish(engine)
    empty, cached = [], []
    for _ in lesson.each(range(ROUNDS), "computing it with and without"):
        engine.flush_cache()
        empty.append(first_token(engine, known))
        cached.append(first_token(engine, prompt_ids))
    lesson.say(
        f"""Time to the first token, the median of {ROUNDS} runs: {amount(median(empty), "s")} for the talk when the
        tree is empty, [good]{amount(median(cached), "s")}[/] for the talk with another ending right after it."""
    )


def first_token(engine, prompt_ids: list[int]) -> float:
    """Seconds until a request that comes alone has its first token, which is all that it wants."""
    start = time.perf_counter()
    ask(engine, prompt_ids, tokens=1)
    finish(engine)
    return time.perf_counter() - start


def eviction(prompts: dict[str, list[int]], tokenizer) -> None:
    """A cache so small that somebody's pages must go: whose, in which order, and who is safe."""
    from minillm.debug.views.radix_tree import remember
    from minillm.kvcache.pages import pages_for
    from minillm.learn.example import TALK, question

    grows = question(tokenizer, TALK[1][0])
    pages = pages_for(len(grows) + GROWS, PAGE) + 3
    engine = lesson.llm(prefix_cache="radix", page_size=PAGE, num_pages=pages).engine
    first = ask(engine, prompts["code"], tokens=9)
    finish(engine)
    ask(engine, prompts["another ending"], tokens=9)
    finish(engine)
    ask(engine, [*first.prompt_ids, *first.output_ids], tokens=1)
    finish(engine)
    last = ask(engine, grows, tokens=GROWS)
    engine.step()
    lesson.say(
        f"""A cache of {pages} pages. A was the code, B the question with another ending, and C was A's prompt with A's
        answer behind it: what a request has written is found like what it was given. Now D runs. The column
        [bold]goes[/] says which leaf is evicted first: the one that nobody came by for the longest time. D's path is
        locked:"""
    )
    lesson.show(tree(engine, order=True))
    before, gone = remember(engine.scheduler.cache), []

    def note(event: Event) -> None:
        text = engine.tokenizer.decode(event.node.token_ids[:PAGE], skip_special_tokens=False)
        gone.append((engine.scheduler.num_steps, list(event.pages), text))

    with listen("radix.evict", note):
        while not last.finished and len(gone) < 4:
            engine.step()
    lesson.say("D grows, and soon no page is free. Each time it needs one, the tree gives one up (radix.evict):")
    for step, given, text in gone:
        said = f"  step {step:>2}: page {', '.join(map(str, given))}, from the end of {text!r}..."
        lesson.console.print(said, highlight=False, markup=False)
    lesson.console.print()
    lesson.say(
        """A leaf gives its pages from the end: a beginning without its end can still be used, an end without its
        beginning never. When a leaf is gone, its parent may be one. Nothing is copied or wiped, the page is just
        somebody else's:"""
    )
    lesson.show(tree(engine, before, order=True))
    finish(engine)


@dataclass
class Queue:
    """What a policy made of a queue: who was admitted in which order, and how many tokens had to be computed."""

    order: list[int] = field(default_factory=list)
    computed: int = 0
    found: int = 0


def policies(tokenizer) -> None:
    """Two families of prompts in turn, and a cache that holds one of them: first come first served, and lpm."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    lesson.say(
        """Six requests wait: two long talks in turn, each with three different last questions. The cache has room for
        one talk. First come, first served, each request pushes out what the next but one could have used. The
        policy [bold]lpm[/] (longest prefix match) admits whoever finds most in the tree:"""
    )
    names = ("fcfs", "lpm")
    served = {name: serve_queue(name, tokenizer) for name in lesson.each(names, "serving the queue with each policy")}
    columns = [Col("policy"), Col("admitted in this order"), Col("tokens computed", "right"), Col("hit rate", "right")]
    rows = [
        [name, " ".join(map(letter, one.order)), f"{one.computed:,}", f"{one.found / (one.found + one.computed):.0%}"]
        for name, one in served.items()
    ]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        """What is cached is used before it must go. The price is the queue's order: B came before C, and waits longer.
        So that nobody waits for ever, a request that has been overtaken 64 times goes to the front."""
    )


def serve_queue(policy: str, tokenizer) -> Queue:
    """The six, one after the other."""
    from minillm.kvcache.pages import pages_for
    from minillm.learn.example import CODE, OTHER_ENDING, QUESTION, TALK, conversation

    talks = (TALK, TALK[::-1])
    queue = [conversation(tokenizer, talk, last) for last in (QUESTION, OTHER_ENDING, CODE) for talk in talks]
    pages = pages_for(max(map(len, queue)), PAGE) + 8
    engine = lesson.quiet_llm(
        prefix_cache="radix", page_size=PAGE, num_pages=pages, max_num_seqs=1, scheduling_policy=policy
    ).engine
    for prompt_ids in queue:
        ask(engine, prompt_ids, tokens=2)
    served = Queue()

    def admitted(event: Event) -> None:
        served.order.append(event.request.id)
        served.found += event.request.num_computed
        served.computed += event.request.num_pending

    with listen("scheduler.admit", admitted):
        finish(engine)
    return served


def shared_workload(tokenizer) -> list[list[int]]:
    """Three sets of instructions, each with some questions: what a server sees that has three customers."""
    from minillm.learn.example import QUESTION, TALK, conversation

    talks = [TALK[i:] + TALK[:i] for i in range(3)]
    lasts = [QUESTION, *(asked for asked, _ in TALK)][:QUESTIONS]
    return [conversation(tokenizer, talk, last) for last in lasts for talk in talks]


@dataclass
class Served:
    """One run of the last part."""

    computed: int
    hit_rate: float
    waits: list[float]
    seconds: float
    tokens: list[list[int]]


def before_and_after() -> None:
    """The same requests without a prefix cache and with one, several times in turn."""
    from minillm.debug.views.compare import before_after

    none, radix = (lesson.quiet_llm(prefix_cache=cache).engine for cache in ("none", "radix"))
    prompts = shared_workload(none.tokenizer)
    lesson.say(
        f"""{len(prompts)} requests of about {len(prompts[0])} tokens: three long beginnings, {QUESTIONS} questions to
        each, with pages of 16. One comes in each step, and each wants {WRITES} tokens. Both engines, {ROUNDS} times in
        turn, each time with an empty cache; the median:"""
    )
    runs = [(serve(none, prompts), serve(radix, prompts)) for _ in lesson.each(range(ROUNDS), "serving them")]

    def row(name: str, values: Iterable[tuple[float, float]], unit: str, better: str) -> tuple:
        return name, *(median(pair[i] for pair in values) for i in (0, 1)), unit, better

    lesson.show(
        before_after(
            [
                row("prompt tokens computed", [(a.computed, b.computed) for a, b in runs], "", "lower"),
                row("hit rate", [(100 * a.hit_rate, 100 * b.hit_rate) for a, b in runs], "%", "higher"),
                row("time to first token, median", [(median(a.waits), median(b.waits)) for a, b in runs], "s", "lower"),
                row("the longest such time", [(max(a.waits), max(b.waits)) for a, b in runs], "s", "lower"),
                row("time for all", [(a.seconds, b.seconds) for a, b in runs], "s", "lower"),
            ],
            before="none",
            after="radix",
        )
    )
    same = all(a.tokens == b.tokens for a, b in runs)
    lesson.say(
        f"""The same tokens, both times: [good]{same}[/]. A shared page holds exactly the numbers that the request would
        have computed. Where nothing is shared, looking it up costs next to nothing ([bold]python -m minillm bench
        prefix[/] measures that). So this switch is on by default."""
    )


def serve(engine, prompts: list[list[int]]) -> Served:
    """One more request before each step, until all are done."""
    engine.flush_cache()
    stats = engine.scheduler.cache.stats
    asked, found = stats.query_tokens, stats.hit_tokens
    requests, born, waits = [], [], {}
    start = time.perf_counter()
    while len(requests) < len(prompts) or engine.has_requests:
        if len(requests) < len(prompts):
            requests.append(ask(engine, prompts[len(requests)]))
            born.append(time.perf_counter())
        engine.step()
        for i, request in enumerate(requests):
            if request.output_ids and i not in waits:
                waits[i] = time.perf_counter() - born[i]
    seconds = time.perf_counter() - start
    asked, found = stats.query_tokens - asked, stats.hit_tokens - found
    tokens = [request.output_ids for request in requests]
    return Served(asked - found, found / asked, list(waits.values()), seconds, tokens)


if __name__ == "__main__":
    lesson.run(main)
