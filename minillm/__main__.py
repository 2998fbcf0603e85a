"""``python -m minillm``: the commands. What each one does stands in minillm/cli and minillm/bench.

Nothing heavy is imported up here, so that ``--help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # the packages lie in an environment, and this is another Python
    sys.exit(
        f"minillm's packages are not installed in this Python ({sys.executable}). `python3 scripts/start.py setup` "
        "puts them into .venv; then start with that one's Python: .venv/bin/python -m minillm (on Windows "
        ".venv\\Scripts\\python -m minillm)."
    )

from minillm.cli import bench, learn
from minillm.cli.guard import GuardedGroup
from minillm.cli.options import (
    Break,
    BreakWhen,
    FrequencyPenalty,
    Log,
    MaxTokens,
    MinP,
    MinTokens,
    Model,
    PageSize,
    Plain,
    PresencePenalty,
    ProfileFile,
    RecordFile,
    RepetitionPenalty,
    Seed,
    Setting,
    Stop,
    Temperature,
    TimelineFile,
    TopK,
    TopP,
)

app = typer.Typer(
    cls=GuardedGroup,
    help="An LLM inference engine that a person can read, run, stop and step through.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bench.app, name="bench")
app.add_typer(learn.app, name="learn")


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar="MINILLM_TRACEBACK", help="Show where an error comes from.")
    ] = False,
) -> None:
    """What holds for every command; `GuardedGroup` reads it."""


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="Each is one request; - reads stdin.")],
    model: Model = "nano-llama",
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    presence_penalty: PresencePenalty = 0.0,
    stop: Stop = None,
    min_tokens: MinTokens = 0,
    seed: Seed = None,
    n: Annotated[int, typer.Option("--n", help="So many answers to each prompt; needs a temperature above 0.")] = 1,
    json_schema: Annotated[
        str | None, typer.Option("--json", metavar="SCHEMA", help="The answer is JSON of this schema, text or @FILE.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="The answer matches this regular expression.")] = None,
    stream: Annotated[bool, typer.Option(help="Print text as it is made, or only when all is done.")] = True,
    chat: Annotated[
        bool | None,
        typer.Option(
            help="A prompt is a question, or a text to go on with. By default a question, if the model has a chat "
            "template.",
            show_default=False,
        ),
    ] = None,
    settings: Setting = None,
    break_at: Break = None,
    break_when: BreakWhen = None,
    log: Log = None,
    record: RecordFile = None,
    timeline: TimelineFile = None,
    profile: ProfileFile = None,
) -> None:
    """Answer one prompt, or several in one batch."""
    from minillm.cli.generate import run
    from minillm.cli.options import arm_stops, parse_settings, structured_outputs
    from minillm.debug.timeline import kept
    from minillm.sampling_params import SamplingParams

    arm_stops(break_at, break_when, log)
    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_tokens=max_tokens, min_p=min_p,
        repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty, presence_penalty=presence_penalty,
        stop=stop or [], min_tokens=min_tokens, n=n, structured_outputs=structured_outputs(json_schema, regex),
    )  # fmt: skip
    with kept(record, timeline):
        run(prompts, model, params, parse_settings(settings), stream=stream, chat=chat, profile=profile)


@app.command()
def chat(
    model: Model = "nano-llama",
    system: Annotated[str | None, typer.Option(help="A system message, kept before the conversation.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    presence_penalty: PresencePenalty = 0.0,
    stop: Stop = None,
    seed: Seed = None,
    settings: Setting = None,
    break_at: Break = None,
    break_when: BreakWhen = None,
    log: Log = None,
) -> None:
    """Talk with a model. /reset forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer."""
    from minillm.cli.chat import run
    from minillm.cli.options import arm_stops, parse_settings
    from minillm.sampling_params import SamplingParams

    arm_stops(break_at, break_when, log)
    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_tokens=max_tokens, min_p=min_p,
        repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty, presence_penalty=presence_penalty,
        stop=stop or [],
    )  # fmt: skip
    run(model, params, parse_settings(settings), system)


@app.command()
def memory(
    model: Annotated[
        str, typer.Argument(help="A bundled model, a folder, a config.json, or a Hub name.")
    ] = "nano-llama",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="Context limit; the model's own if not given.")] = None,
    page_size: PageSize = "16",
    max_num_seqs: Annotated[int, typer.Option(help="Most requests that run at the same time.")] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Token budget of one step.")] = 2048,
    gpu_memory_utilization: Annotated[float, typer.Option(help="Share of the memory that may be used.")] = 0.9,
    available: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of the device, such as 24GiB; this machine's if not given."),
    ] = None,
) -> None:
    """What a model needs and how many tokens fit, from its config alone: no weights are read."""
    from minillm.cli.memory import run
    from minillm.cli.options import parse_value

    run(
        available,
        model=model,
        dtype=dtype,
        max_model_len=max_model_len,
        page_size=parse_value(page_size),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
    )


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or a Hub name.")] = "nano-llama",
    load: Annotated[
        bool, typer.Option("--load", help="Load the model too: where its parameters are, its masks.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    plain: Plain = False,
) -> None:
    """Look a checkpoint over: is anything wrong with it, and what to do. Exit status 1 if something is."""
    from minillm.cli.doctor import run

    raise typer.Exit(0 if run(model, load, json, plain) else 1)


@app.command()
def compare(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or a Hub name.")] = "nano-llama",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="hf|NAME=VALUE",
            help="Hugging Face transformers, or ours with another setting; may be repeated.",
            show_default="hf",
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What both compute.")
    ] = "What is a page of the KV cache, and who holds it?",
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that is none.")] = 1e-4,
    decode: Annotated[int, typer.Option(min=0, metavar="N", help="Steps of decode after the prompt.")] = 0,
    stop: Annotated[bool, typer.Option("--break", help="Then stop in the debugger at the first difference.")] = False,
    settings: Setting = None,
    plain: Plain = False,
) -> None:
    """The first layer and tensor where two computations of one model differ. Exit status 1 if one does."""
    from minillm.cli.compare import run
    from minillm.cli.options import parse_settings

    same = run(model, against or [], prompt, parse_settings(settings), tolerance, decode, stop, plain)
    raise typer.Exit(0 if same else 1)


@app.command()
def experts(
    model: Annotated[str, typer.Argument(help="A mixture of experts: a folder, or a name on the Hugging Face Hub.")],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="TEXT", help="May be repeated; a few of ours if not given.")
    ] = None,
    max_tokens: MaxTokens = 64,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the counts as JSON.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the heat map as a picture.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="ASCII, without colours.")] = False,
    settings: Setting = None,
    break_at: Break = None,
    break_when: BreakWhen = None,
    log: Log = None,
) -> None:
    """Which experts of a mixture of experts compute which share of some prompts and their answers."""
    from minillm.cli.experts import run
    from minillm.cli.options import arm_stops, parse_settings
    from minillm.request import SamplingParams

    arm_stops(break_at, break_when, log)
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    run(model, prompts or [], params, parse_settings(settings), export, svg, plain)


@app.command()
def probes(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help='All about one, or several: kv.allocate, "kv.*".')
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All about all of them.")] = False,
) -> None:
    """Every place in the engine that can be traced or stopped at, a line each."""
    from minillm.cli.probes import run

    run(pattern, everything)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What --record wrote.")],
    step: Annotated[int | None, typer.Option(metavar="N", help="Print this step and end.")] = None,
    engine: Annotated[int | None, typer.Option(help="If the program made several: only the first, second, ...")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print one step (the last, or --step) in ASCII, and end.")
    ] = False,
) -> None:
    """Go through a recorded run, step by step: queues, batch, page map."""
    from minillm.cli.replay import run

    run(file, step, engine, plain)


# Everything after the lesson's number is the lesson's own, --help too.
@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
def lesson(
    number: Annotated[str, typer.Argument(metavar="NN", help="The lesson's number.")] = "",
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="The lesson's own.")] = None,
) -> None:
    """Run a lesson; without a number, list them. What follows the number goes to the lesson."""
    from minillm.cli.lesson import run

    run(number, arguments or [])


def main() -> None:
    """The entry point. Text that the terminal's encoding does not know is shown as ``?``, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app(prog_name="minillm")


if __name__ == "__main__":
    main()
