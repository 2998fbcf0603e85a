"""``minillm bench``: measurements on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from minillm.cli.options import ProfileFile, Setting

app = typer.Typer(help="Measure this machine.", no_args_is_help=True, rich_markup_mode=None)


def in_a_folder(file: Path | None) -> Path | None:
    """A file that can be written when all is measured: said now, not minutes later."""
    if file and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{file} cannot be written: it must be a file in a folder that exists")
    return file


Rounds = Annotated[int, typer.Option(min=1, max=100, help="How often each side runs; they take turns.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=in_a_folder, help="Write the JSON line here as well."),
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", callback=in_a_folder, help="Write a picture (SVG).")
]
AnyModel = Annotated[str, typer.Option(help="A bundled model, a folder, a Hub name, or a shape with random weights.")]

BenchModel = Annotated[str, typer.Option(help="A folder to take in place of the bundled model.")]


def parse_numbers(option: str, text: str, most: float = 1e6, whole: bool = True) -> list[float]:
    """``"1,4,16"`` -> three numbers above 0 and up to ``most``. ValueError says how to write them."""
    kind = "whole numbers" if whole else "numbers"
    try:
        found = [float(int(part)) if whole else float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number <= most for number in found):
        raise ValueError(f"{option} is {text!r}; it takes {kind} above 0, at most {most:,.0f}, such as 1,4,16")
    return found


@app.command()
def cpu(
    quick: Annotated[bool, typer.Option("--quick", help="The bundled model only, and fewer tokens.")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this workload; may be repeated.")] = None,
    rounds: Rounds = 3,
    model: BenchModel = "nano-llama",
    json: JsonFile = None,
) -> None:
    """Tokens a second on the CPU, beside Hugging Face's generate. The last line printed is JSON."""
    from minillm.bench import cpu as bench
    from minillm.bench.report import print_comparisons, print_json
    from minillm.bench.workloads import CPU, CPU_QUICK, choose

    results = bench.compare_all(choose(CPU_QUICK if quick else CPU, only or []), rounds, model)
    print_comparisons(results)
    print_json({"benchmark": "cpu", "quick": quick, "results": [result.as_dict() for result in results]}, json)


@app.command()
def throughput(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="mixed256, single, batch64, ... (minillm/bench/traffic.py); may be repeated."
        ),
    ] = None,
    model: AnyModel = "nano-llama",
    settings: Setting = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often it runs when warm; the best counts.")] = 2,
    compare: Annotated[
        str | None, typer.Option(metavar="hf|vllm", help="Run it in Hugging Face's generate, or vLLM, as well.")
    ] = None,
    json: JsonFile = None,
    profile: ProfileFile = None,
) -> None:
    """Tokens a second of a workload on this machine's GPU or CPU. The last line printed is JSON."""
    from minillm.bench.peers import check_peer
    from minillm.bench.report import print_json, print_throughput
    from minillm.bench.settings import engine_settings
    from minillm.bench.shapes import model_settings
    from minillm.bench.throughput import measure_beside
    from minillm.bench.traffic import traffic
    from minillm.cli.options import parse_settings

    work = [traffic(name) for name in workload or ["quick"]]
    if compare:
        check_peer(compare)
    if profile and len(work) > 1 and profile.endswith((".json", ".json.gz")):
        raise ValueError(f"--profile {profile} is one file, but there are {len(work)} workloads; give it a folder")
    with model_settings(model) as chosen:
        given = engine_settings(parse_settings(settings), {"prefix_cache": "none"}, chosen, work)
        results = [measure_beside(model, one, given, rounds, compare, profile) for one in work]
    print_throughput(results)
    shown = {name: value for name, value in given.items() if name not in chosen}
    print_json({"benchmark": "throughput", "settings": shown, "results": [one.as_dict() for one in results]}, json)


@app.command()
def latency(
    model: AnyModel = "nano-llama",
    concurrency: Annotated[
        str, typer.Option(metavar="N,N,...", help="So many requests under way at any time; 1 is one after the other.")
    ] = "1,4,16",
    rate: Annotated[
        str | None,
        typer.Option(metavar="R,R,...", help="In place of that: requests a second, at random moments (Poisson)."),
    ] = None,
    prompt_len: Annotated[str, typer.Option(metavar="N,N,...", help="Tokens of a prompt.")] = "32,256",
    output_len: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens of an answer.")] = 32,
    requests: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests of each measurement; at least twice those under way.")
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    settings: Setting = None,
    json: JsonFile = None,
) -> None:
    """How long requests wait: to the first token, between tokens, in all. The last line printed is JSON."""
    from minillm.bench.latency import Load, measure_latency
    from minillm.bench.report import print_json
    from minillm.bench.serving_report import print_latency
    from minillm.bench.settings import made_engine
    from minillm.bench.shapes import model_settings
    from minillm.bench.traffic import same
    from minillm.cli.options import parse_settings
    from minillm.debug.device_speed import name_of

    lens = [int(number) for number in parse_numbers("--prompt-len", prompt_len, most=1_000_000)]
    loads = [Load(concurrency=int(number)) for number in parse_numbers("--concurrency", concurrency, most=100_000)]
    if rate is not None:
        loads = [Load(rate=number) for number in parse_numbers("--rate", rate, whole=False)]
    work = [same(f"--prompt-len {n}", 1, n, output_len) for n in lens]
    with model_settings(model) as chosen:
        engine = made_engine(parse_settings(settings), {"prefix_cache": "none"}, chosen, work)
        results = measure_latency(engine, lens, loads, requests, output_len, seed)
    print_latency(results, f"{model}, {name_of(engine.device)}")
    print_json({"benchmark": "latency", "model": model, "results": [one.as_dict() for one in results]}, json)


@app.command()
def host(
    model: AnyModel = "nano-llama",
    requests: Annotated[
        str, typer.Option(metavar="N,N,...", help="So many requests that decode at the same time.")
    ] = "1,64,256",
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Steps that are looked at.")] = 48,
    settings: Setting = None,
    json: JsonFile = None,
) -> None:
    """What a decode step costs the host, apart from the device's work. The last line printed is JSON."""
    from minillm.bench.host import measure_host
    from minillm.bench.report import print_json
    from minillm.bench.serving_report import print_host
    from minillm.bench.settings import made_engine
    from minillm.bench.shapes import model_settings
    from minillm.cli.options import parse_settings
    from minillm.debug.device_speed import name_of

    counts = [int(number) for number in parse_numbers("--requests", requests, most=100_000)]
    with model_settings(model) as chosen:
        engine = made_engine(parse_settings(settings), {"max_num_seqs": max(counts)}, chosen, [])
        results = [measure_host(engine, count, steps) for count in counts]
    print_host(results, f"{model}, {name_of(engine.device)}")
    print_json({"benchmark": "host", "model": model, "results": [one.as_dict() for one in results]}, json)


@app.command()
def ladder(
    model: Annotated[
        str | None,
        typer.Option(
            help="A bundled model, a folder, a Hub name, or a shape with random weights.",
            show_default="nano-llama; on a GPU qwen3-0.6b",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As in bench throughput; talk... have something for every rung.",
            show_default="talk24; on a GPU talk48",
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="RUNG", help="Only this one; may be repeated.")] = None,
    settings: Setting = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="How often the ladder is climbed; of each figure the best counts.",
            show_default="1; on a GPU 2",
        ),
    ] = None,
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """The engine's switches, turned on one by one, on the same requests: a minute or two, more on a GPU or with rounds.

    The first rung keeps nothing and takes the longest. The last line printed is JSON.
    """
    from minillm.bench.checkpoints import say
    from minillm.bench.climb import climb
    from minillm.bench.ladder import choose_rungs, stand, usual
    from minillm.bench.ladder_report import ladder_svg, print_ladder
    from minillm.bench.report import print_json
    from minillm.bench.shapes import model_settings
    from minillm.bench.traffic import traffic
    from minillm.cli.options import parse_settings
    from minillm.debug.device_speed import name_of

    user = parse_settings(settings)
    names = choose_rungs(only or [])
    usual_model, usual_work, usual_rounds = usual(user)
    model, work = model or usual_model, traffic(workload or usual_work)
    with model_settings(model) as chosen:
        ground = stand(user, chosen, work)
        say(f"{len(names)} rungs, {rounds or usual_rounds} times: some minutes; the first keeps nothing and takes long")
        results = climb(ground, names, rounds or usual_rounds)
    title = f"{model}, {work.name}: {len(work.prompts)} requests on {name_of(ground.device)}"
    print_ladder(results, title)
    if plot:
        plot.write_text(ladder_svg(results, title), encoding="utf-8")
    found = {"model": model, "workload": work.name, "title": title, "results": [one.as_dict() for one in results]}
    print_json({"benchmark": "ladder", **found}, json)


@app.command()
def agreement(
    model: Annotated[str, typer.Option(help="A bundled model, a folder, or a Hub name.")] = "nano-llama",
    dtype: Annotated[str, typer.Option(help="What both compute in.")] = "bfloat16",
    tokens: Annotated[int, typer.Option(min=1, max=1024, help="Tokens for each of four prompts.")] = 128,
    settings: Setting = None,
    json: JsonFile = None,
) -> None:
    """Whether rounding changes tokens: ours beside Hugging Face's choice after the same text, and by which gap."""
    from minillm.bench.report import print_json
    from minillm.cli.options import parse_settings
    from minillm.diagnose.agreement import measure_agreement, print_agreement

    found = measure_agreement(model, dtype, tokens, parse_settings(settings))
    print_agreement(found)
    print_json({"benchmark": "agreement", **found.as_dict()}, json)


@app.command()
def probes(
    rounds: Rounds = 5,
    tokens: Annotated[int, typer.Option(min=1, max=1024, help="Tokens that are generated.")] = 128,
    model: BenchModel = "nano-llama",
    json: JsonFile = None,
) -> None:
    """What probes cost that nobody listens to: the engine as it is, and a copy without them, taking turns."""
    from minillm.bench.probe_cost import measure, print_cost
    from minillm.bench.report import print_json

    cost = measure(model, rounds, tokens)
    print_cost(cost)
    print_json({"benchmark": "probes", **cost.as_dict()}, json)


@app.command()
def prefix(
    rounds: Rounds = 3,
    model: BenchModel = "nano-llama",
    curve_only: Annotated[bool, typer.Option("--curve-only", help="Only the tree, without a model.")] = False,
    page_size: Annotated[int, typer.Option(min=1, help="Tokens of a page, in the curve.")] = 16,
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """What the prefix cache saves, what it costs, and how its tree grows. The last line printed is JSON."""
    from minillm.bench.prefix import compare_prefix
    from minillm.bench.prefix_curve import as_rows, measure_curve
    from minillm.bench.prefix_report import curve_svg, print_curve, print_prefix
    from minillm.bench.report import print_json

    points = measure_curve(page_size)
    print_curve(points)
    if plot:
        plot.write_text(curve_svg(points), encoding="utf-8")
    results = [] if curve_only else compare_prefix(model, rounds)
    if results:
        print_prefix(results)
    served = [result.as_dict() for result in results]
    print_json({"benchmark": "prefix", "curve": as_rows(points), "results": served}, json)
