"""Options that several commands share, and how their text becomes values."""

import ast
import re
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option(help="A bundled model, a folder, or a name on the Hugging Face Hub.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of one answer.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; above 0, chance has a say.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens whose probabilities add up to this.")]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option(help="Keep tokens at least this share as likely as the likeliest; 0 keeps all.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, what prompt or answer has said becomes less likely.")]
FrequencyPenalty = Annotated[float, typer.Option(help="Taken off for each time that the answer has said it.")]
PresencePenalty = Annotated[float, typer.Option(help="Taken off once for what the answer has said.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text comes; may be repeated.")]
MinTokens = Annotated[int, typer.Option(help="Fewest tokens of one answer.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
PageSize = Annotated[str, typer.Option(help="Tokens a page holds, or max_model_len.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the engine (minillm/config.py); may be repeated."),
]
Break = Annotated[
    list[str] | None, typer.Option("--break", metavar="PROBE", help='Stop at these probes, such as "kv.*".')
]
BreakWhen = Annotated[
    str | None, typer.Option("--break-when", metavar="EXPR", help='Stop only when this holds, such as "2 in pages".')
]
Log = Annotated[list[str] | None, typer.Option("--log", metavar="PROBE", help="Print at these probes and go on.")]
Plain = Annotated[bool, typer.Option("--plain", help="No colours, no control codes, ASCII only.")]
RecordFile = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write what happens, for: minillm replay FILE.")
]
TimelineFile = Annotated[
    Path | None, typer.Option("--timeline", metavar="FILE", help="Write a time line for https://ui.perfetto.dev.")
]

ProfileFile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Record where the time goes (FILE.json, FILE.json.gz or a folder) for https://ui.perfetto.dev, and print "
        "it by kernel and layer; nvtx only names steps and layers, for nsys.",
    ),
]


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """``["page_size=4", "reuse_kv=false"]`` -> ``{"page_size": 4, "reuse_kv": False}``."""
    settings = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, such as page_size=4; got {pair!r}")
        settings[name.strip().replace("-", "_")] = parse_value(value.strip())
    return settings


def parse_value(text: str) -> Any:
    """A number, true, false or none where it reads as one; else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def structured_outputs(json_schema: str | None, regex: str | None) -> Any:
    """What ``--json`` and ``--regex`` ask for, or None. A schema is JSON itself, or ``@FILE``."""
    from minillm.sampling_params import StructuredOutputsParams

    if json_schema is None and regex is None:
        return None
    if json_schema is not None and json_schema.startswith("@"):
        json_schema = Path(json_schema[1:]).read_text(encoding="utf-8")
    return StructuredOutputsParams(json=json_schema, regex=regex)


def arm_stops(break_at: list[str] | None, when: str | None, log: list[str] | None) -> None:
    """Set the breakpoints and log points that were asked for on the command line."""
    if break_at or when or log:
        from minillm.debug.stops import arm

        arm(break_at, when, log)


def parse_bytes(text: str) -> int:
    """``"24GiB"``, ``"24G"``, ``"512 MiB"``, ``"80GB"`` (powers of 1000) or plain bytes, as a number."""
    match = re.fullmatch(r"([0-9.]+)\s*(?:([KMGT])(i?)B?|B)?", text.strip(), flags=re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if not match or number <= 0:
        raise ValueError(f"{text!r} is no amount of memory; write it like 24GiB, 512MiB, 80GB or 1000000000")
    power = "_KMGT".index((match[2] or "_").upper())
    decimal = match[2] and not match[3] and text.strip().upper().endswith("B")  # GB, not GiB and not G
    return int(number * (1000 if decimal else 1024) ** power)
