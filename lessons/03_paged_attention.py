"""Lesson 03: paged attention.

Turned on: ``page_size=16``. The cache is cut into small pages that lie anywhere; a request takes one when it needs one,
and a page table says where its tokens are. It is the idea of virtual memory, and it is why one card serves many people
at once.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=3,
    title="Paged attention",
    turns_on="page_size=16 (lesson 02: one page a request)",
    buys="memory for many more requests, because none is reserved",
    breaks="kv.allocate,kv.gather,kv.free",
)

from minillm import SamplingParams
from minillm.debug.views.compare import before_after
from minillm.debug.views.gather import gather_map
from minillm.debug.views.page_map import page_map
from minillm.debug.views.page_tables import free_list, page_tables
from minillm.debug.views.slots_table import slots_table
from minillm.debug.views.spread import as_much, is_noise, spread
from minillm.debug.views.table import drawn, numbers
from minillm.debug.views.theme import letter
from minillm.debug.views.waste import waste_bars
from minillm.learn.asking import finish
from minillm.learn.example import OTHER_ENDING, question, running_example
from minillm.learn.lessons.lesson_03.full_house import REQUESTS, TOKENS, FullHouse, serve
from minillm.learn.timing import ROUNDS, in_turns
from minillm.probe import Event, listen

PAGES = 48
SIZES = 1, 16, 64, 256  # of a page, that are compared
FEWER = 8  # requests that are served with each of them


def main() -> None:
    llm = lesson.llm(page_size=16, num_pages=PAGES, attention_backend="reference")
    engine = llm.engine

    lesson.part("Four requests come in")
    requests = four_come_in(engine)

    lesson.part("Where this step's tokens go")
    slots_of_a_step(engine, requests)

    lesson.part("A page fills up, and one more is taken")
    growing(engine, requests)

    lesson.part("Scattered in memory, contiguous in attention")
    one_gather(engine, requests)

    lesson.part("A request ends, its pages go round")
    ending(engine, requests)

    lesson.part("Waste, before and after")
    before_and_after()

    lesson.part("What the page size changes")
    page_sizes()

    lesson.end(
        "Stop at every new page: [bold]--break kv.allocate[/]. Look at [bold]request.pages[/] and [bold]self.pool[/].",
        "Only for the second request: [bold]--break kv.allocate --break-when 'request.id == 1'[/].",
        "Every decision as a line, without stopping: [bold]--log 'kv.allocate,kv.free,scheduler.*'[/].",
        f"""Change PAGES = {PAGES} to {48 if PAGES == 16 else 16} in this file. With 16, the four prompts take all
        pages; when one more is needed, somebody must give theirs back, and wait until there are enough again.
        [bold]--log 'scheduler.preempt,scheduler.wait'[/] says who.""",
    )


def four_come_in(engine) -> list:
    """Add the running example's requests, and run the step that computes their prompts."""
    prompts = running_example(engine.tokenizer, lesson.options.prompt)
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    requests = [engine.add_request(prompt_ids, params) for prompt_ids in prompts.values()]
    names = ", ".join(
        f"{letter(r.id)} {name} ({len(r.prompt_ids)} tokens)" for name, r in zip(prompts, requests, strict=True)
    )
    engine.step()
    waiting = ", ".join(letter(request.id) for request in engine.scheduler.waiting)
    whose = f"the prompts of all but {waiting}, which must wait" if waiting else "all four prompts"
    lesson.say(f"{names}. One step computes {whose}. Each takes the pages that it needs now, and no more:")
    lesson.show(page_map(engine.pool, requests))
    lesson.say("""The page table of each request: its pages, in the order of its tokens. Only the last one has room
        left, so a request wastes less than a page:""")
    lesson.show(page_tables(requests, engine.pool.page_size))
    lesson.show(free_list(engine.pool))
    return requests


def slots_of_a_step(engine, requests: list) -> None:
    """One decode step's tokens with page, offset and slot."""
    lesson.say("""Each request now decodes: one token each in the step. Its position gives the entry in the page table
        and the offset in that page; both together are the slot: slot = page * 16 + offset.""")
    seen = []
    with listen("batch.build", lambda event: seen.append(slots_table(event.batch, event.rows, engine.tokenizer))):
        engine.step()
    lesson.show(*seen)


def growing(engine, requests: list) -> None:
    """Step until somebody needs a page, and show the map before and after."""
    taken: list[str] = []
    lost: list[str] = []
    written = []

    def note(event: Event) -> None:
        taken.append(f"Request {letter(event.request.id)} takes page {', '.join(map(str, event.pages))}")

    with (
        listen("kv.allocate", note),
        listen("scheduler.preempt", lambda event: lost.append(letter(event.request.id))),
        listen("batch.build", lambda event: written.append(event.batch.slots.clone())),
    ):
        while not taken and engine.has_requests:
            engine.step()
    out = f"No page is free, so {' and '.join(lost)} must give all pages back and wait (lesson 05)." if lost else ""
    lesson.say(f"""Steps go by in which nobody gets a page. Then, in step {engine.scheduler.num_steps}, a last page is
        full. {out} [bold]{"; ".join(taken)}[/]. The slots that this step writes are marked:""")
    lesson.show(page_map(engine.pool, requests, step_slots=written[-1]))


def one_gather(engine, requests: list) -> None:
    """What attention reads for the first request, from the page table and from the gather itself."""
    for _ in range(18):
        engine.step()
    lesson.say("""While requests grow, their pages come to lie in between each other's. Attention does not care: it
        reads a request's pages in the order of its page table, and sees one text. For request A:""")
    lesson.show(gather_map(requests[0], engine.pool, requests))
    pieces = []
    with listen("kv.gather", lambda event: pieces.append(event.gather.pieces.tolist())):
        engine.step()
    if pieces:
        lesson.say(f"""The first pages that layer 0 gathered in the step after:
            [bold]{pieces[0][: len(requests[0].pages)]}[/]. A's page table: [bold]{requests[0].pages}[/].""")


def ending(engine, requests: list) -> None:
    """Let all end but watch the first: its pages, and who gets them next."""
    freed = []
    with listen("kv.free", lambda event: freed.append((event.request.id, list(event.pages)))):
        finish(engine)
    whose, pages = freed[-1]
    left = free_list(engine.pool)
    request = engine.add_request(question(engine.tokenizer, OTHER_ENDING), SamplingParams(temperature=0, max_tokens=1))
    taken = []
    with listen("kv.allocate", lambda event: taken.extend(event.pages)):
        engine.step()  # before the list is shown: the quiz has asked what it says
    lesson.say(f"""All four have ended, and every page is free again. The last to go was {letter(whose)}, with pages
        {pages}. The free list is a stack, so those are on top:""")
    lesson.show(left)
    lesson.say(f"A new request, {letter(request.id)}, comes in and gets page [bold]{', '.join(map(str, taken))}[/].")


def before_and_after() -> None:
    """The same memory, one page a request against pages of 16 tokens: who runs at once, and how fast it all is."""
    lesson.say(f"""The same memory twice, room for 4,096 tokens, and {REQUESTS} requests that want {TOKENS} tokens
        each. Lesson 02's cache has two pages of 2,048 tokens, this one 256 of 16. Both serve them {len(ROUNDS)} times,
        in turns; in brackets are the least and the most:""")
    engines = [lesson.quiet_llm(page_size=size, max_cached_tokens=4096).engine for size in ("max_model_len", 16)]
    rounds = lesson.each(ROUNDS, f"serving {REQUESTS} requests with each page size")
    runs = list(in_turns({engine: partial(serve, engine) for engine in engines}, rounds).values())
    contiguous, paged = (served[0] for served in runs)
    lesson.show(waste_bars({"one page a request": contiguous.fullest, "page_size=16": paged.fullest}))

    def row(name: str, measure: Callable[[FullHouse], float], unit: str, better: str) -> tuple:
        return name, *([measure(one) for one in served] for served in runs), unit, better

    rows = [
        row("requests at once", lambda one: one.at_once, "", "higher"),
        row("used, of what is held", lambda one: one.share, "%", "higher"),
        row("steps for all", lambda one: one.steps, "", "lower"),
        row("time for all", lambda one: one.seconds, "s", "lower"),
        row("tokens/s", lambda one: one.speed, "", "higher"),
    ]
    lesson.show(before_after(rows, before="lesson 02", after="page_size=16"))
    lesson.say(f"The same tokens, both times: [good]{contiguous.tokens == paged.tokens}[/].")


def page_sizes() -> None:
    """The same work with other page sizes: waste against bookkeeping."""
    lesson.say(f"""A small page wastes less at a request's end; a large one makes page tables shorter. In between lies
        what engines use: 16 is common, and some GPU kernels want more. Here are {FEWER} requests. Empty slots and
        entries are means over them; the speed was measured {len(ROUNDS)} times, in turns:""")
    engines = {size: lesson.quiet_llm(page_size=size, max_cached_tokens=8192).engine for size in SIZES}
    rounds = lesson.each(ROUNDS, f"serving {FEWER} requests with each page size")
    runs = in_turns({size: partial(serve, engine, FEWER) for size, engine in engines.items()}, rounds)
    speeds = {size: [one.speed for one in served] for size, served in runs.items()}
    rows = [
        [str(size), f"{served[0].empty:.1f}", f"{served[0].entries:.0f}", spread(speeds[size])]
        for size, served in runs.items()
    ]
    columns = numbers("page_size", "empty slots a request", "page table entries", "tokens/s here")
    lesson.show(drawn(columns, rows))
    best, worst = (choose(speeds, key=lambda size: median(speeds[size])) for choose in (max, min))
    if is_noise(speeds[best], speeds[worst]):
        lesson.say("How fast it is here, the page size does not change: all differences are within noise.")
    else:
        lesson.say(f"""The fastest here, pages of {best}, made {as_much(speeds[best], speeds[worst])} the slowest, pages
            of {worst}, in the same time. Rows whose brackets overlap are within noise of each other.""")


if __name__ == "__main__":
    lesson.run(main)
