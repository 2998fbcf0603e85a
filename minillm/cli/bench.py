"""``minillm bench``: measurements on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from minillm.cli.options import Setting

app = typer.Typer(help="Measure this machine.", no_args_is_help=True, rich_markup_mode=None)

Rounds = Annotated[int, typer.Option(min=1, help="How often each side runs; they take turns.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON line here as well.")]
BenchModel = Annotated[str, typer.Option(help="A folder to take in place of the bundled model.")]


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
    model: Annotated[
        str, typer.Option(help="A bundled model, a folder, a Hub name, or a shape with random weights.")
    ] = "nano-llama",
    settings: Setting = None,
    rounds: Rounds = 2,
    json: JsonFile = None,
) -> None:
    """Tokens a second of a workload on this machine's GPU or CPU. The last line printed is JSON."""
    from minillm.bench.report import print_json, print_throughput
    from minillm.bench.shapes import model_settings
    from minillm.bench.throughput import measure
    from minillm.bench.traffic import traffic
    from minillm.cli.options import parse_settings

    work = [traffic(name) for name in workload or ["quick"]]
    given = {"max_model_len": 4096, "prefix_cache": "none", **parse_settings(settings)}
    with model_settings(model) as chosen:
        results = [measure(model, one, {**given, **chosen}, rounds) for one in work]
    print_throughput(results)
    print_json({"benchmark": "throughput", "settings": given, "results": [one.as_dict() for one in results]}, json)


@app.command()
def probes(rounds: Rounds = 5, tokens: int = 128, model: BenchModel = "nano-llama", json: JsonFile = None) -> None:
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
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the curve as a picture (SVG).")] = None,
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
