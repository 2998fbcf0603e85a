"""The part of the lesson about several answers to one prompt: what they share, and what min-p does to their texts."""

from rich.text import Text

from minillm.debug.views.page_map import page_map
from minillm.engine.engine import Engine
from minillm.learn.asking import finish
from minillm.learn.example import running_example
from minillm.learn.lesson import Lesson
from minillm.learn.lessons.lesson_07.copies import noting
from minillm.request import Request
from minillm.sampling_params import SamplingParams


def four_answers(lesson: Lesson) -> None:
    """n=4 on a long prompt: tokens computed, the pages that all four hold; then their texts, with min-p and without."""
    engine: Engine = lesson.llm(num_pages=48).engine
    prompt = running_example(engine.tokenizer)["a long talk"]
    params = SamplingParams(temperature=3, min_p=0.02, seed=5, n=4, max_tokens=20, ignore_eos=True)
    lesson.say(f"""n=4 asks for four answers to one prompt. They are four requests whose seeds count up, and their
        prompt is the same. So they share its pages, as lesson 06 had it, from the step that fills them. For the long
        talk, with {len(prompt)} tokens:""")
    with noting("scheduler.plan") as plans:
        running = first_step(engine, prompt, params)
    computed = sum(row.count for row in plans[0]["plan"].rows)
    for _ in range(12):
        engine.step()
    lesson.show(page_map(engine.pool, running))
    shared = sum(all(page in request.pages for request in running) for page in running[0].pages)
    lesson.say(f"""{shared} pages belong to all four (A+3). The first step computed [bold]{computed}[/] tokens: the
        prompt once, and for each of the others what lies in the prompt's last page, which is not full. Without sharing
        it would have been 4 * {len(prompt)} = {4 * len(prompt)}. What they write, with temperature=3 and
        min_p=0.02:""")
    finish(engine)
    lesson.show(their_texts(lesson, engine, running))
    lesson.say("And the same four seeds with temperature=3 alone:")
    params.min_p = 0.0
    running = first_step(engine, prompt, params)
    finish(engine)
    lesson.show(their_texts(lesson, engine, running))


def first_step(engine: Engine, prompt: list[int], params: SamplingParams) -> list[Request]:
    """Ask, and take the step that computes the prompt; those who answer it."""
    engine.add_request(prompt, params)
    engine.step()
    return list(engine.scheduler.running)


def their_texts(lesson: Lesson, engine: Engine, requests: list[Request]) -> Text:
    return Text("\n").join(Text(lesson.quoted(engine.tokenizer.decode(one.output_ids))) for one in requests)
