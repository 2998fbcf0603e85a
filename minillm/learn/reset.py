"""Makes exercises new again. What the learner wrote stays beside the file, as it was before."""

from pathlib import Path

from minillm.learn.home import my_file
from minillm.learn.mine import MineError, read_mine
from minillm.learn.progress import Progress
from minillm.learn.stub import exercise, put_stub
from minillm.learn.tasks import Task, lesson_tasks


def reset(tasks: list[Task]) -> tuple[Path, Path | None]:
    """Stubs for these tasks, which are of one lesson; the file, and the copy of what it was (None if nothing was)."""
    number = tasks[0].number
    path, kept = my_file(number), None
    if path.exists():
        taken = len(list(path.parent.glob(f"{path.stem}.before*.py")))
        kept = path.with_name(f"{path.stem}.before{taken + 1}.py")
        kept.write_bytes(path.read_bytes())
    if tasks == lesson_tasks(number) or kept is None:
        text = exercise(lesson_tasks(number))
    else:
        try:
            text = read_mine(number).text
        except MineError as error:
            raise MineError(f"{error}\nmend that first, or reset the whole lesson: learn reset {number}") from None
        for task in tasks:
            text = put_stub(text, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    progress = Progress()
    for task in tasks:
        progress.forget(task.id, "done", "hints")  # what was seen stays seen
    progress.save()
    return path, kept
