"""How many examples a property test tries: some in every run, four times as many in CI, where MINILLM_FUZZ=long."""

import os

LONG = os.environ.get("MINILLM_FUZZ") == "long"


def examples(usual: int) -> int:
    return 4 * usual if LONG else usual
