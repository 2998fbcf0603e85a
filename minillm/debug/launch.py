"""The project's launch configurations, read as VS Code reads them: which there are, and which probes each stops at."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from minillm.debug.catalogue import PACKAGE, catalogue

LAUNCH = PACKAGE.parent / ".vscode" / "launch.json"
_NO_CODE = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)  # strings are kept, comments go


@dataclass(frozen=True)
class Configuration:
    """One entry of launch.json with its variables replaced. ``probes``: where it stops, in the order it names them."""

    name: str
    settings: dict[str, Any]
    probes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name without the probes in brackets: ``Lesson 03: paged attention``."""
        return self.name.partition(" (")[0]

    @property
    def note(self) -> str:
        """What stands in the brackets: where it stops."""
        return self.name.partition(" (")[2].rstrip(")")


def read_jsonc(text: str) -> Any:
    """JSON with comments and trailing commas, as VS Code allows them in its own files."""
    bare = _NO_CODE.sub(lambda match: match[1] or "", text)
    return json.loads(re.sub(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', lambda match: match[1] or "", bare))


def configurations(answers: Mapping[str, str] | None = None, **variables: str) -> list[Configuration]:
    """All of them; none without a clone. ``answers``: what a learner types at an input, by its id; Enter elsewhere.

    variables: VS Code's own, such as ``file``; ``workspaceFolder`` is the clone.
    """
    if not LAUNCH.is_file():
        return []
    content = read_jsonc(LAUNCH.read_text(encoding="utf-8"))
    known = {"workspaceFolder": str(PACKAGE.parent), **variables}
    known |= {f"input:{one['id']}": (answers or {}).get(one["id"], one["default"]) for one in content["inputs"]}
    found = []
    for entry in content["configurations"]:
        settings = _replace(entry, known)
        found.append(Configuration(settings["name"], settings, tuple(_probes(settings))))
    return found


def stopping_at(probe: str) -> list[Configuration]:
    """The configurations that stop at this probe if one just presses Enter."""
    return [one for one in configurations() if probe in one.probes]


def _replace(value: Any, known: dict[str, str]) -> Any:
    """``${name}`` in every string below; one that is not known stays, for a configuration that is only listed."""
    if isinstance(value, str):
        return re.sub(r"\$\{([^}]*)\}", lambda match: known.get(match[1], match[0]), value)
    if isinstance(value, list):
        return [_replace(part, known) for part in value]
    return {key: _replace(part, known) for key, part in value.items()} if isinstance(value, dict) else value


def _probes(settings: dict[str, Any]) -> list[str]:
    """What ``--break=...`` and MINILLM_BREAK arm, patterns resolved."""
    given = [text.partition("=")[2] for text in settings.get("args", []) if text.startswith("--break=")]
    given.append(settings.get("env", {}).get("MINILLM_BREAK", ""))
    patterns = [pattern.strip() for text in given for pattern in text.split(",") if pattern.strip()]
    return [name for pattern in patterns for name in catalogue() if fnmatchcase(name, pattern)]
