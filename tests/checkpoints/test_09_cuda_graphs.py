"""Checkpoint 09: sizes, the choice of one, and the buffers of a replay. Oracles: lists by hand, plain loops, Hugging
Face's tokens."""

import random
from typing import Any

import numpy as np
from exercises import jobs_for, tokens_of_hugging_face
from tiny import Oracle

from minillm.worker import graphs

LINES = ("seat", "position", "slot", "seed")


def engine_replays_the_right_tokens(oracle: Oracle, seats: int = 6) -> None:
    """Seven requests that come two steps apart and end one after the other, so that batches have many sizes."""
    jobs = jobs_for([tuple(range(5 + i, 9 + 3 * i)) for i in range(7)], max_tokens=14, gap=2)
    tokens_of_hugging_face(oracle, jobs, enforce_eager=False, max_num_seqs=seats, num_pages=64, max_model_len=64)


class TestCaptureSizes:
    """9.1"""

    def test_by_hand(self) -> None:
        for most, right in (
            (1, [1]),
            (2, [1, 2]),
            (6, [1, 2, 4, 6]),
            (8, [1, 2, 4, 8]),
            (9, [1, 2, 4, 8, 9]),
            (20, [1, 2, 4, 8, 16, 20]),
            (70, [1, 2, 4, 8, 16, 24, 32, 48, 64, 70]),
        ):
            sizes_are(most, right)

    def test_beyond_the_largest_none_is_recorded(self) -> None:
        for most in (256, 257, 600):
            sizes_are(most, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256])

    def test_for_any_number_of_seats(self) -> None:
        for most in range(1, 300):
            right = sorted({size for size in graphs.SIZES if size <= most} | {min(most, 256)})
            sizes_are(most, right)

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_replays_the_right_tokens(oracle)


def sizes_are(most: int, right: list[int]) -> None:
    got = graphs.capture_sizes(most)
    assert got == right, f"up to {most} requests run, and steps are recorded for {got} rows; {right} is right"


class TestChooseSize:
    """9.2"""

    def test_by_hand(self) -> None:
        for count, right in ((1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (7, 8), (8, 8)):
            size_is([1, 2, 4, 8], count, right)
        size_is([6], 1, 6)
        size_is([1, 2, 4, 6], 5, 6)

    def test_for_any_sizes(self) -> None:
        draw = random.Random(0)
        for _ in range(200):
            sizes = sorted(draw.sample(range(1, 60), draw.randrange(1, 9)))
            count = draw.randrange(1, sizes[-1] + 1)
            right = next(rows for rows in range(count, 100) if rows in sizes)
            size_is(sizes, count, right)

    def test_a_batch_that_is_too_large(self) -> None:
        try:
            got = graphs.choose_size([1, 2, 4, 8], 9)
        except ValueError:
            return
        except IndexError as error:
            raise AssertionError(
                f"9 requests decode, and the largest step has 8 rows: a ValueError, not {error!r}"
            ) from error
        raise AssertionError(f"9 requests decode, and the largest step has 8 rows: a ValueError was wanted, not {got}")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_replays_the_right_tokens(oracle)


def size_is(sizes: list[int], count: int, right: int) -> None:
    given = sizes.copy()
    got = graphs.choose_size(sizes, count)
    assert got == right, f"{count} requests decode, and steps are recorded for {given}: {got} rows; {right} is right"
    assert sizes == given, f"the list of recorded sizes was {given}, and after the request for a number it is {sizes}"


class TestFillRows:
    """9.3"""

    def test_two_requests_in_a_step_of_four(self) -> None:
        rows, lengths = buffers()
        fill(rows, lengths, [(3, 30, 270, 11), (1, 0, 64, 12)], 4)
        right = [[3, 1, 9, 9], [30, 0, 0, 0], [270, 64, -1, -1], [11, 12, 0, 0]]
        buffers_are(rows, lengths, right, [31, 1, 0, 0], "2 requests in a step of 4 rows")

    def test_no_padding(self) -> None:
        rows, lengths = buffers()
        fill(rows, lengths, [(2, 5, 21, 0), (0, 7, 39, 0)], 2)
        buffers_are(rows, lengths, [[2, 0], [5, 7], [21, 39], [0, 0]], [6, 8], "2 requests in a step of 2 rows")

    def test_nobody_at_all(self) -> None:
        """As while a step is recorded."""
        rows, lengths = buffers()
        fill(rows, lengths, [], 3)
        buffers_are(rows, lengths, [[9] * 3, [0] * 3, [-1] * 3, [0] * 3], [0] * 3, "nobody in a step of 3 rows")

    def test_step_after_step_in_the_same_buffers(self) -> None:
        """Batches that grow and shrink, against lists; what lies behind a step stays as it was."""
        draw, (rows, lengths) = random.Random(1), buffers()
        right, seen = rows.tolist(), lengths.tolist()
        for _ in range(60):
            size = draw.randrange(1, 9)
            step = [tuple(draw.randrange(100) for _ in LINES) for _ in range(draw.randrange(size + 1))]
            fill(rows, lengths, step, size)
            for column in range(size):
                entry = step[column] if column < len(step) else (9, 0, -1, 0)
                for line, value in enumerate(entry):
                    right[line][column] = value
                seen[column] = entry[1] + 1 if column < len(step) else 0
            buffers_are(rows, lengths, right, seen, f"{len(step)} requests in a step of {size} rows, after others")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_replays_the_right_tokens(oracle)
        engine_replays_the_right_tokens(oracle, seats=8)


def buffers() -> tuple[np.ndarray, np.ndarray]:
    """Eight columns, full of an old step's numbers; a ninth length, which is no row's."""
    return np.full((4, 8), 77, dtype=np.int64), np.full(9, 77, dtype=np.int32)


def fill(rows: np.ndarray, lengths: np.ndarray, step: list[tuple[int, ...]], size: int) -> None:
    """``step``: seat, position, slot and seed of each request."""
    values: Any = np.array(step, dtype=np.int64).reshape(-1, 4).T
    result: Any = graphs.fill_rows(rows, lengths, *values, size, 9)
    assert result is None, "the buffers are filled in place, for a recorded step reads these; no tensor is returned"


def buffers_are(rows: np.ndarray, lengths: np.ndarray, right: list[list[int]], seen: list[int], what: str) -> None:
    """Columns up to those of ``right``, and 77, as before, in all others."""
    width = len(seen)
    for line, name in enumerate(LINES):
        for column, value in enumerate(right[line]):
            got = int(rows[line, column])
            assert got == value, f"{what}: the {name} in column {column} is {got}, and {value} is right"
    for column, value in enumerate(seen):
        got = int(lengths[column])
        assert got == value, f"{what}: the length, in tokens, in column {column} is {got}, and {value} is right"
    assert (rows[:, width:] == 77).all() and (lengths[width:] == 77).all(), (
        f"{what}: from column {width} on, numbers of the buffers were written that are not this step's"
    )
