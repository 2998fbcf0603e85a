"""What expert trackers have counted: as JSON, and where two differ most."""

import json
import tempfile
from pathlib import Path

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn
from minillm.debug.views.units import percent


def exported(tracker: ExpertTracker) -> tuple[int, Drawing]:
    """Bytes, and a table of its keys."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experts.json"
        tracker.export(path)
        size, kept = path.stat().st_size, json.loads(path.read_text(encoding="utf-8"))
    layer, experts = next(iter(kept["expert_stats"].items()))
    rows: list[Cells] = [
        ["expert_stats", "layer, expert", ", ".join(next(iter(experts.values())))],
        ["layer_stats", "layer", ", ".join(kept["layer_stats"][layer])],
        ["top_experts", "rank", f"as in expert_stats; {len(kept['top_experts'])} of them, the busiest first"],
    ]
    return size, drawn([Col("key"), Col("then", wraps=True), Col("and there", wraps=True)], rows)


def most_one_sided(one: ExpertTracker, other: ExpertTracker) -> tuple[int, int, str, str]:
    """The expert whose share of its layer differs most: its number, its layer's, and both shares."""
    mine, others = one.shares(), other.shares()
    layer, expert = divmod(int(abs(mine - others).argmax()), mine.shape[1])
    return expert, one.layer_ids[layer], percent(mine[layer, expert], 1), percent(others[layer, expert], 1)
