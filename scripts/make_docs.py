"""Write every part of the site that quotes the code or a run: traces, probes, exercises, the glossary, the API's pages.

    python scripts/make_docs.py                 # all that is stale; runs every lesson
    python scripts/make_docs.py --no-runs       # leave the lessons' traces alone: done in a second
    python scripts/make_docs.py --lesson 03     # only this lesson's trace, and all that needs no run
    python scripts/make_docs.py --record        # record the traces anew, even where nothing has changed
    python scripts/make_docs.py --check         # write nothing; exit status 1 if something is stale, and say what

Pages take the parts in by ``--8<-- "generated/lesson03_probes.md"``. See scripts/pages/ for who makes what.
"""

import argparse
import sys

from pages import api, exercises, glossary, pictures, probes, traces
from pages.piece import COMMAND, DOCS, Piece, lesson_files


def main() -> int:
    options = parse()
    found = check(options) if options.check else write(options)
    if options.check and found:
        print("Stale, because the code or a lesson has changed since:")
        print("\n".join(f"  {path}" for path in found))
        print(f"To write them anew: {COMMAND}")
        return 1
    print("Everything generated is up to date." if not found else f"{len(found)} files written.")
    return 0


def check(options: argparse.Namespace) -> list[str]:
    """The files that are not as they would be written now."""
    found = [piece.path for piece in without_runs() + drawn(options) if piece.is_stale] + left_over()
    for number in chosen(options):
        found += traces.stale(number, traces.run(number, same_clock=True))
    return found


def write(options: argparse.Namespace) -> list[str]:
    """Write what is stale; the files' names."""
    for path in left_over():
        Piece(path, "").file.unlink()
    made = [piece for piece in without_runs() + drawn(options) if piece.is_stale]
    for number in chosen(options):
        print(f"lesson {number} runs ...", flush=True)
        parts = traces.run(number, same_clock=True)
        if options.record or traces.stale(number, parts):
            print(f"lesson {number} is recorded ...", flush=True)
            made += traces.pieces(number, parts, traces.run(number, same_clock=False))
    for piece in made:
        piece.write()
    return [piece.path for piece in made]


def without_runs() -> list[Piece]:
    """All that comes from the code alone."""
    return [piece for module in (glossary, probes, exercises, api) for piece in module.pieces()]


def drawn(options: argparse.Namespace) -> list[Piece]:
    """Pictures from runs of their own, beside the traces of the lesson that they belong to."""
    return pictures.pieces() if pictures.OF_LESSON in chosen(options) else []


def left_over() -> list[str]:
    """API pages of rooms that are gone. (A generated part that nobody makes any more would not be missed either.)"""
    made = {piece.path for piece in without_runs()}
    there = [f"docs/{path.relative_to(DOCS).as_posix()}" for path in sorted((DOCS / "api").glob("*.md"))]
    return [path for path in there if path not in made and path.count(".") == 1]


def chosen(options: argparse.Namespace) -> list[str]:
    """The lessons to run."""
    if options.no_runs:
        return []
    there = list(lesson_files())
    unknown = [number for number in options.lesson or [] if number not in there]
    if unknown:
        sys.exit(f"There is no lesson {', '.join(unknown)}; there are {', '.join(there)}.")
    return options.lesson or there


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something is stale")
    parser.add_argument("--no-runs", action="store_true", help="leave the lessons' traces alone")
    parser.add_argument("--lesson", metavar="NN", action="append", help="only this lesson's trace; may be repeated")
    parser.add_argument("--record", action="store_true", help="record the traces anew, stale or not")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
