"""From the first place that differs to a debugger there: its probe, armed for that layer and that token."""

from minillm.config import EngineConfig
from minillm.debug.stops import arm
from minillm.diagnose.compare import Comparison
from minillm.diagnose.compared import Compared
from minillm.diagnose.ours import run
from minillm.diagnose.places import LOGITS, MLP_NORMS, MLP_STREAM, Place
from minillm.engine.engine import Engine
from minillm.probe import Event, listen

AT_STORE = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")
AT_ATTEND = ("q_rope", "k_rope", "o_proj input", "out_proj input", "self_attn")


def probe_for(place: Place) -> str:
    """The probe next to where a place's tensor is made."""
    name = place.name.rpartition(".")[2]
    if place == LOGITS:
        return "model.logits"
    if place.layer is None:
        return "model.embed" if "embed" in name else "model.norm"
    if place.name.startswith(("mlp", "block_sparse_moe", "fc")) or name in (MLP_STREAM, *MLP_NORMS):
        return "layer.mlp"
    if name in AT_STORE:
        return "kv.store"
    return "attention.attend" if name in AT_ATTEND else "layer.attention"


def condition_for(one: Compared) -> str:
    """True in the layer, and in the step, in which the token is computed that differs most."""
    if one.place == LOGITS:
        return f"any(row.start <= {one.position} < row.start + row.count for row in rows)"
    computed = f"{one.position} in batch.positions"
    return computed if one.place.layer is None else f"layer == {one.place.layer} and {computed}"


def stop_at_first(comparison: Comparison) -> bool:
    """Run the suspect side again, and stop in a debugger at the first difference. Whether it came by its probe."""
    first = comparison.first
    assert first is not None, "nothing differs, so there is nothing to stop at"
    name, seen = probe_for(first.place), list[Event]()
    engine = Engine(EngineConfig.from_settings(**comparison.suspect))
    tokens, decode = comparison.ours.token_ids, len(comparison.ours.token_ids) - comparison.ours.num_prompt
    with arm(name, condition_for(first)), listen(name, seen.append):
        run(engine, tokens[: comparison.ours.num_prompt], decode)
    return bool(seen)
