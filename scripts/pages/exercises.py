"""Each chapter's exercises: what to write, where it lives, how to begin."""

from minillm.learn.registry import lesson_tasks


def of_lesson(number: str) -> str:
    tasks = lesson_tasks(number)
    rows = ["| task | you write | it is | its probes |", "| --- | --- | --- | --- |"]
    for task in tasks:
        probes = ", ".join(f"`{probe}`" for probe in task.probes)
        rows.append(f"| {task.id} | {task.title} | `{task.qualname}` in `{task.file}` | {probes} |")
    commands = [
        (f"python -m minillm learn start {number}", f"writes my/ex{number}.py, to be filled in"),
        (f"python -m minillm learn check {number}", "your functions in the engine: which are right?"),
        (f"python -m minillm learn hint {tasks[0].id}", "a question first, then more"),
        (f"python -m minillm lesson {number} --mine", "the lesson, run with your functions"),
    ]
    width = max(len(command) for command, _ in commands)
    shell = "\n".join(f"{command:<{width}}   # {meaning}" for command, meaning in commands)
    return "\n".join([*rows, "", "```bash", shell, "```"])
