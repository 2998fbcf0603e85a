"""Lesson 06: the radix cache.

Turned on: ``prefix_cache="radix"``. Most prompts begin like another one: the same instructions, the same document, the
same conversation a turn longer. Their keys and values are the same too, so the pages that hold them can be used again.
A tree of token runs finds them; who comes later computes only what is new.
"""

from statistics import median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=6,
    title="The radix cache",
    turns_on="prefix_cache='radix' (before: 'none')",
    buys="prompts whose beginning is known need not be computed again",
    breaks="radix.split,radix.match,radix.evict",
)

from minillm.debug.views.batch_table import batch_table
from minillm.debug.views.page_map import page_map
from minillm.debug.views.prefix_hit import prefix_hit
from minillm.debug.views.radix_tree import remember
from minillm.debug.views.spread import as_much, spread
from minillm.debug.views.theme import letter
from minillm.debug.views.units import amount
from minillm.kvcache.pages import pages_for
from minillm.learn.asking import answered, ask, finish
from minillm.learn.example import OTHER_ENDING, TALK, conversation, question, running_example
from minillm.learn.lessons.lesson_06 import customers, two_families
from minillm.learn.lessons.lesson_06.tree_now import GivenUp, tree
from minillm.probe import listen

PAGE = 4  # tokens of a page: small, so that short prompts fill some
WRITES, GROWS = 12, 26  # tokens that each request wants, and one of a cache that is too small for it
QUESTIONS, ROUNDS = 4, 3  # asked of each instruction, in the last part; how often things are timed


def main() -> None:
    lesson.part("A request ends, its pages stay")
    engine = lesson.llm(prefix_cache="radix", page_size=PAGE, max_cached_tokens=1024).engine
    prompts = running_example(engine.tokenizer, lesson.options.prompt)
    one_prompt(engine, prompts["a question"])

    lesson.part("Another ending: a node is split")
    another_ending(engine, prompts["another ending"])

    lesson.part("The tree grows")
    tree_grows(engine, [prompts["a long talk"], prompts["code"], prompts["a question"]])

    lesson.part("A hit skips the prefill")
    hit(engine, prompts["a long talk"], conversation(engine.tokenizer, TALK, OTHER_ENDING))

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


def one_prompt(engine, prompt_ids: list[int]) -> None:
    """A request while it runs, and after: its path is locked, then it is not."""
    request = ask(engine, prompt_ids, WRITES)
    engine.step()
    lesson.say(f"""A is the question, with {len(prompt_ids)} tokens. One step computes them, and fills
        {request.num_computed // PAGE} pages of {PAGE} tokens; the rest of the prompt lies in a page that is not full
        yet. A full page is never written again: so the tree takes it in at once, for others to find. A node of the tree
        is a run of tokens and the pages that hold them:""")
    lesson.show(tree(engine))
    finish(engine)
    lesson.say(f"""While A runs, its path is locked: nobody takes these pages away. A has written {WRITES} tokens and
        ended. Without the tree its pages would be free now. But the tree has a reference of its own to each page, and
        keeps them, until somebody needs the memory. Only a page that is not full goes back:""")
    lesson.show(tree(engine), page_map(engine.pool, [], max_pages=32))


def another_ending(engine, prompt_ids: list[int]) -> None:
    """The split, from the probes on its two sides, and what is left to compute."""
    before, seen = remember(engine.scheduler.cache), []
    request = ask(engine, prompt_ids, WRITES)
    lesson.say(f"""B begins like A, and ends otherwise. Before it is admitted, the scheduler walks down the tree with
        B's {len(prompt_ids)} tokens, page by page, as far as they are the same. That is in the middle of A's node. So
        the node is cut: what both have becomes a node of its own, above. The tree when B has been looked up, and
        nothing of it has been computed:""")
    with listen("radix.match", lambda event: seen.append(tree(engine, before))):
        engine.step()
    if not seen:
        lesson.say("(B shares no whole page with the question that you gave, so nothing is cut, and all is computed.)")
    lesson.show(*seen)
    lesson.say("What B finds it takes, and what it does not find it computes. Only whole pages can be shared:")
    lesson.show(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer))
    lesson.say("After the step B's full pages are in the tree as well, beside A's rest:")
    lesson.show(tree(engine, before))
    finish(engine)


def tree_grows(engine, prompts: list[list[int]]) -> None:
    """Three more at once, one of them a question that was asked before."""
    before = remember(engine.scheduler.cache)
    requests = [ask(engine, prompt_ids, WRITES) for prompt_ids in prompts]
    engine.step()
    lesson.say("""C is the long talk, D the code, and E asks A's question again. One step admits all three:""")
    lesson.show(*(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer) for request in requests))
    lesson.say("""E's prompt was computed before, to its last token, and still two are left: they only begin a page. And
        of a prompt that fills its pages to the last slot, the last page is left: without a token to compute there would
        be no scores to choose the next one from. The tree now:""")
    lesson.show(tree(engine, before))
    lesson.say("The same in the page map. A page with two letters is in two page tables, and in memory once:")
    lesson.show(page_map(engine.pool, engine.scheduler.running, max_pages=96))
    finish(engine)


def hit(engine, known: list[int], prompt_ids: list[int]) -> None:
    """One long prompt with an empty cache and with what the tree knows: the plan, and the time to the first token."""
    request, plans = ask(engine, prompt_ids, WRITES), []
    with listen("scheduler.plan", lambda event: plans.append(event.plan)):
        engine.step()
    lesson.say(f"""{letter(request.id)} is the long talk again, with another last question. Of its {len(prompt_ids)}
        tokens, the first {request.num_cached} are known:""")
    lesson.show(prefix_hit(request, request.num_cached, PAGE, engine.tokenizer))
    lesson.say("""So the step that admits it begins at that position, and computes the few that are left. New to its
        page table are all the pages, those that it took from the tree too:""")
    lesson.show(batch_table(plans[0], [request], engine.config.max_num_batched_tokens))
    finish(engine)
    empty, cached = customers.first_tokens(engine, known, prompt_ids, lesson.each(range(ROUNDS), "computing it"))
    lesson.say(f"""Time to the first token, the median of {ROUNDS} runs in turns: {amount(median(empty), "s")} for the
        talk when the tree is empty, [good]{amount(median(cached), "s")}[/] for the talk with another ending right after
        it, which is {as_much(cached, empty, "long")} the other. (All runs: {spread(empty, "s")},
        {spread(cached, "s")}.)""")


def eviction(prompts: dict[str, list[int]], tokenizer) -> None:
    """A cache so small that somebody's pages must go: whose, in which order, and who is safe."""
    grows = question(tokenizer, TALK[1][0])
    pages = pages_for(len(grows) + GROWS, PAGE) + 3
    engine = lesson.llm(prefix_cache="radix", page_size=PAGE, num_pages=pages).engine
    first = answered(engine, prompts["code"], 9)
    answered(engine, prompts["another ending"], 9)
    answered(engine, [*first.prompt_ids, *first.output_ids], 1)
    last = ask(engine, grows, GROWS)
    engine.step()
    lesson.say(f"""A cache of {pages} pages. A was the code, B the question with another ending, and C was A's prompt
        with A's answer behind it: what a request has written is found like what it was given. Now D runs. The column
        [bold]goes[/] says which leaf is evicted first: the one that nobody came by for the longest time. D's path is
        locked:""")
    lesson.show(tree(engine, order=True))
    before, gone = remember(engine.scheduler.cache), GivenUp(engine)
    with listen("radix.evict", gone.note):
        while not last.finished and len(gone.pages) < 4:
            engine.step()
    lesson.say("D grows, and soon no page is free. Each time it needs one, the tree gives one up (radix.evict):")
    gone.print(lesson.console)
    lesson.say("""A leaf gives its pages from the end: a beginning without its end can still be used, an end without its
        beginning never. When a leaf is gone, its parent may be one. Nothing is copied or wiped, the page is just
        somebody else's:""")
    lesson.show(tree(engine, before, order=True))
    finish(engine)


def policies(tokenizer) -> None:
    """Two families of prompts in turn, and a cache that holds one of them: first come first served, and lpm."""
    lesson.say("""Six requests wait: two long talks in turn, each with three different last questions. The cache has
        room for one talk. First come, first served, each request pushes out what the next but one could have used. The
        policy [bold]lpm[/] (longest prefix match) admits whoever finds most in the tree:""")
    queue = two_families.queue(tokenizer)
    small = two_families.room_for_one(queue, PAGE)
    served = {}
    for policy in lesson.each(("fcfs", "lpm"), "serving the queue with each policy"):
        served[policy] = two_families.serve(lesson.quiet_llm(**small, scheduling_policy=policy).engine, queue)
    lesson.show(two_families.in_a_table(served))
    lesson.say("""What is cached is used before it must go. The price is the queue's order: B came before C, and waits
        longer. So that nobody waits for ever, a request that has been overtaken 64 times goes to the front.""")


def before_and_after() -> None:
    """The same requests without a prefix cache and with one, several times in turn."""
    engines = [lesson.quiet_llm(prefix_cache=cache).engine for cache in ("none", "radix")]
    prompts = customers.prompts(engines[0].tokenizer, QUESTIONS)
    lesson.say(f"""{len(prompts)} requests of about {len(prompts[0])} tokens: three long beginnings, {QUESTIONS}
        questions to each, with pages of 16. One comes in each step, and each wants {WRITES} tokens. Both engines,
        {ROUNDS} times in turn, each time with an empty cache; the median, the least and the most:""")
    runs = [[customers.serve(one, prompts, WRITES) for one in engines] for _ in lesson.each(range(ROUNDS), "serving")]
    lesson.show(customers.in_a_table(runs))
    same = all(a.tokens == b.tokens for a, b in runs)
    lesson.say(f"""The same tokens, both times: [good]{same}[/]. A shared page holds exactly the numbers that the
        request would have computed. Where nothing is shared, looking it up costs next to nothing ([bold]python -m
        minillm bench prefix[/] measures that). So this switch is on by default.""")


if __name__ == "__main__":
    lesson.run(main)
