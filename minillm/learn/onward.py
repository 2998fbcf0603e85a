"""Where a lesson leads: its chapter, its first exercise and its quiz, as commands that work where the learner is."""

from collections.abc import Iterator

from rich.table import Table

from minillm.learn.home import python, shown
from minillm.learn.registry import Place, lessons


def onward(number: int) -> Table | None:
    """A row for each; None for a script that is no lesson of the clone."""
    place = lessons().get(number)
    if place is None:
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="note", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(place):
        table.add_row(name, text)
    return table if table.row_count else None


def rows(place: Place) -> Iterator[tuple[str, str]]:
    """What there is to do next, and what to type for it."""
    try:
        chapter, script = place.chapter, place.script
    except FileNotFoundError:  # the script was copied out of its clone: nothing of this is there
        return
    if chapter.exists():
        yield "Read", shown(chapter)
    if place.tasks:
        first = place.tasks[0]
        yield "Write", f"{python()} -m minillm learn start {place.label}"
        yield "", f"{python()} -m minillm learn check {first.id}"
    if place.questions:
        yield "Answer", f"{python()} {shown(script)} --quiz"
