"""What the probes cost when nobody listens: this package beside a copy of itself that has none.

Both are parsed and written anew into a temporary folder, one with every ``probe.on and probe(...)`` line out. Each
runs in a process of its own, and the two take turns. What is timed is the processor's time of one thread, because the
difference is small and a shared machine's clock is not.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import timeit
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import minillm
from minillm.bench.checkpoints import orderly_end, say
from minillm.debug.views.theme import make_console
from minillm.hub import resolve_model
from minillm.probe import probe

# A process of one of the copies: loads the model, then for each line that it is sent, generates and prints the seconds.
WORKER = """
import sys, time, torch
from pathlib import Path
home, model, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, home)
import minillm
from minillm import probe as probes
assert Path(minillm.__file__).is_relative_to(home), minillm.__file__
torch.set_num_threads(1)
llm = minillm.LLM(model, device="cpu")
params = minillm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
def generate():
    return llm.generate({"prompt_token_ids": list(range(20, 84))}, params, use_tqdm=False)
seen = 0
def count(event):
    global seen
    seen += 1
with probes.listen("*", count):
    generate()
print(seen, flush=True)
for line in sys.stdin:
    start = time.process_time()
    generate()
    print(time.process_time() - start, flush=True)
"""


@dataclass
class ProbeCost:
    """Processor seconds of a generation with and without probes, and what that makes of one passed probe."""

    places: int  # where a probe stands in the code
    passed: int  # how often one was passed in a generation
    with_s: list[float]
    without_s: list[float]
    check_ns: float  # one check alone, timed in a loop

    @property
    def ratio(self) -> float:
        return min(self.with_s) / min(self.without_s)

    @property
    def ns_per_probe(self) -> float:
        return (min(self.with_s) - min(self.without_s)) / self.passed * 1e9

    @property
    def share(self) -> float:
        """Of a generation's time, by the loop's figure."""
        return self.check_ns * 1e-9 * self.passed / min(self.with_s)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "ns_per_probe": self.ns_per_probe, "share": self.share}


class WithoutProbes(ast.NodeTransformer):
    """Takes the probe statements out of a module, and counts them."""

    def __init__(self) -> None:
        self.removed = 0

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if isinstance(node.value, ast.BoolOp) and ast.unparse(node.value.values[0]) == "probe.on":
            self.removed += 1
            return ast.copy_location(ast.Pass(), node)
        return node


def copy_package(home: Path, strip: bool) -> int:
    """Copy the package to ``home``, but for its models, and write its modules anew; how many probes were left out."""
    target, stripper = home / "minillm", WithoutProbes()
    shutil.copytree(Path(minillm.__file__).parent, target, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for source in target.rglob("*.py"):
        tree: ast.AST = ast.parse(source.read_text(encoding="utf-8"))
        source.write_text(ast.unparse(stripper.visit(tree) if strip else tree), encoding="utf-8")
    return stripper.removed


def measure(model: str, rounds: int, tokens: int) -> ProbeCost:
    """Start both copies, then let them take turns."""
    folder = str(resolve_model(model).resolve())
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}  # nothing armed
    with orderly_end(), ExitStack() as stack:
        workers, counts, places = [], [], 0
        for strip in (False, True):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minillm-probes-"))).resolve()
            places = copy_package(home, strip)
            say(f"starting the copy {'without' if strip else 'with'} probes")
            command = [sys.executable, "-c", WORKER, str(home), folder, str(tokens)]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home, env=quiet
            )
            stack.enter_context(worker)  # on exit closes its input, which ends it, and waits
            workers.append(worker)
            counts.append(int(_read(worker)))
        times: list[list[float]] = [[], []]
        for turn in range(rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                _stream(workers[side].stdin).write("go\n")
                _stream(workers[side].stdin).flush()
                times[side].append(float(_read(workers[side])))
            say(f"round {turn + 1} of {rounds}: with {times[0][-1]:.3f} s, without {times[1][-1]:.3f} s")
    return ProbeCost(places, counts[0] - counts[1], times[0], times[1], check_ns())


def check_ns(number: int = 1_000_000) -> float:
    """One ``probe.on and probe(...)`` that is off, less the loop around it."""
    scope = {"probe": probe, "a": 1}
    check = min(timeit.repeat("probe.on and probe('x', a=a)", globals=scope, number=number, repeat=5))
    return (check - min(timeit.repeat("pass", number=number, repeat=5))) / number * 1e9


def print_cost(cost: ProbeCost) -> None:
    make_console().print(
        f"{cost.places} probes in the code, passed {cost.passed:,} times in a generation.\n"
        f"Best of {len(cost.with_s)} each: with them {min(cost.with_s):.4f} s, without {min(cost.without_s):.4f} s: "
        f"{cost.ns_per_probe:.0f} ns a probe and a ratio of {cost.ratio:.4f}.\n"
        f"One check alone, timed in a loop: {cost.check_ns:.1f} ns, which would be {cost.share:.3%} of a generation."
    )


def _read(worker: "subprocess.Popen[str]") -> str:
    line = _stream(worker.stdout).readline()
    if not line:
        raise RuntimeError(f"a copy of the package ended early, with status {worker.wait()}; its message stands above")
    return line


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
