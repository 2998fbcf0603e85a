"""Record what the lessons print, for the site to show; or check that what is recorded is still what they print.

    python scripts/record_runs.py              # runs every lesson; records those that print something else now
    python scripts/record_runs.py 03 09        # only these
    python scripts/record_runs.py --again      # records even what has not changed: on a new machine
    python scripts/record_runs.py --check      # writes nothing; exit status 1 if something is stale, and says what

A lesson is recorded in minillm/learn/lessons/lesson_NN/run.json. Its times are only worth showing from a machine that
does nothing else, so a busy one is refused; --anyway records all the same, and the page says so. Pages and pictures are
not written by this: they are made when the site is built, see scripts/pages/hook.py.
"""

import argparse
import sys
import time

from pages import recorder
from pages.clone import COMMAND, ROOT, lesson_files
from pages.quiet import LIMIT, busy_now


def main() -> int:
    options = parse()
    numbers = chosen(options.lessons)
    return check(numbers) if options.check else record(numbers, options.again, options.anyway)


def check(numbers: list[str]) -> int:
    """Say what is stale, as soon as it is found."""
    stale = []
    for number in numbers:
        try:
            difference = recorder.stale(number, recorder.counting(number))
        except recorder.Failed as failure:
            difference = str(failure)
        if difference:
            stale.append(number)
            print(f"Lesson {number}: {difference}", flush=True)
    gone = recorder.left_over()
    for path in gone:
        print(f"{path}: there is no such lesson any more. Remove it: git rm {path}")
    if stale:
        print(f"To record anew, on a quiet machine: {recorder.command(stale)}")
    if not stale and not gone:
        print(f"What is recorded of {len(numbers)} lessons is what they print.")
    return 1 if stale or gone else 0


def record(numbers: list[str], again: bool, anyway: bool) -> int:
    """Record what is stale, or all; a lesson that fails does not keep the others from being recorded."""
    busy = busy_now()
    if busy > LIMIT and not anyway:
        print(f"Other programs keep {busy} processors busy; the times would be theirs, not the lessons'.")
        print("Wait until they have ended, or record all the same with --anyway: the page then says so.")
        return 1
    print(f"{len(numbers)} lessons, about {max(round(recorder.seconds(numbers) / 60), 1)} minutes.", flush=True)
    failed = []
    for number in numbers:
        began = time.perf_counter()
        try:
            counted = recorder.counting(number)
            difference = recorder.stale(number, counted)
            if difference or again:
                path = recorder.record(number, counted, began, anyway)
                said = f"{difference or 'recorded again'} -> {path.relative_to(ROOT)}"
            else:
                said = "prints what is recorded"
        except recorder.Failed as failure:
            failed.append(number)
            said = f"FAILED: {failure}"
        print(f"Lesson {number}: {said} ({time.perf_counter() - began:.0f} s)", flush=True)
    if failed:
        print(f"To try those that failed again: {recorder.command(failed)}{' --anyway' if anyway else ''}")
    return 1 if failed else 0


def chosen(asked: list[str]) -> list[str]:
    """The lessons to run, ``3`` as ``03``."""
    there, wanted = list(lesson_files()), [number.zfill(2) for number in asked]
    if unknown := [number for number in wanted if number not in there]:
        sys.exit(f"There is no lesson {', '.join(unknown)}; there are {', '.join(there)}.")
    return wanted or there


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lessons", metavar="NN", nargs="*", help="only these lessons")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something is stale")
    parser.add_argument("--again", action="store_true", help="record even what has not changed")
    parser.add_argument("--anyway", action="store_true", help="record although other programs run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
