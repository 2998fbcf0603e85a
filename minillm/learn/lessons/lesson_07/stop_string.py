"""The part of the lesson about a stop string: a streamed answer, what the stream shows and what it holds back."""

from rich.markup import escape

from minillm.debug.views.table import Cells, Col, drawn
from minillm.engine.engine import Engine
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen
from minillm.sampling_params import SamplingParams


def stop_string(lesson: Lesson, engine: Engine, prompt_ids: list[int], stop: str) -> None:
    """A streamed answer that ends at ``stop``: each token, what the stream shows, what is held back."""
    lesson.say(f"""stop='{stop}' ends the answer where this text appears. But the model writes tokens, and a stop string
        begins and ends anywhere in them. A stream that shows each token at once would show the beginning of the string,
        and could not take it back. So text that may begin a stop string is held back until the next tokens decide. The
        end of the answer to the question, streamed:""")
    rows: list[Cells] = []

    def note(event: Event) -> None:
        made = engine.tokenizer.decode(event.request.output_ids)
        token, rest = engine.tokenizer.token(event.request.output_ids[-1]), made[len(event.text) :]
        rows.append([lesson.quoted(token), lesson.quoted(event.delta), lesson.quoted(rest) if rest else ""])

    request = engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=40, stop=stop), stream=True)
    outputs = []
    with listen("request.text", note):
        while engine.has_requests:
            outputs += engine.step()
    lesson.show(drawn([Col("token"), Col("the stream shows"), Col("held back")], rows[-9:]))
    answer = outputs[-1].outputs[0]
    end = "At the end the string is whole, nobody was shown any of it, and the text is cut before it."
    reason, told, text = (
        f"[bold]{escape(lesson.quoted(one))}[/]" for one in (answer.finish_reason, answer.stop_reason, answer.text)
    )
    lesson.say(f"""A tail that turned out to be something else came out with the token after it.
        {end if answer.stop_reason == stop else "The string never came."} finish_reason is {reason}, stop_reason {told}.
        token_ids has all {len(request.output_ids)} tokens, the text is {text}""")
