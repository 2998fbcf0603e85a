"""``minillm doctor``: look a checkpoint over."""

import json

from minillm.debug.views.theme import make_console
from minillm.diagnose.doctor import draw, examine, is_wrong
from minillm.hub import resolve_model


def run(model: str, load: bool, as_json: bool, plain: bool) -> bool:
    """Print what every check finds. Whether nothing is wrong."""
    folder = resolve_model(model)
    findings = examine(folder, load)
    if as_json:
        content = {"model": model, "wrong": is_wrong(findings), "checks": [finding.as_dict() for finding in findings]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        make_console(plain).print(draw(f"{model} ({folder})" if str(folder) != model else model, findings))
    return not is_wrong(findings)
