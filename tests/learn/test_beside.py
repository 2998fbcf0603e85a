"""Two pieces of code beside each other, or one over the other."""

from minillm.debug.views.theme import make_console
from minillm.learn.beside import beside

YOURS = "def f(x):\n    y = x\n    print(y)\n    return y\n"
ENGINES = "def f(x):\n    y = x + 1\n    return y\n"


def drawn(width: int) -> list[str]:
    console = make_console(plain=True, width=width)
    with console.capture() as shown:
        console.print(beside(("yours", "the engine's own"), YOURS, ENGINES, width))
    return [line.rstrip() for line in shown.get().splitlines()]


def test_side_by_side_with_a_sign_for_each_line_that_differs() -> None:
    rows = [" ".join(line.split()) for line in drawn(120)]
    assert rows[1] == "def f(x): def f(x):"
    assert rows[2] == "y = x | y = x + 1" and rows[3] == "print(y) <"
    assert rows[4] == "return y return y"


def test_one_over_the_other_where_it_is_narrow() -> None:
    rows = drawn(80)
    assert rows[:5] == ["yours", "  def f(x):", "|     y = x", "<     print(y)", "      return y"]
    assert rows[6:10] == ["the engine's own", "  def f(x):", "|     y = x + 1", "      return y"]
