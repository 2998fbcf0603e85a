"""Whether a debugger listens. By itself, for an engine that asks need not load a debugger."""

import sys
from typing import Any


def attached() -> bool:
    """Whether a debugger (VS Code, or anything that speaks its protocol) listens at the other end of debugpy."""
    debugpy: Any = sys.modules.get("debugpy")
    return debugpy is not None and debugpy.is_client_connected()
