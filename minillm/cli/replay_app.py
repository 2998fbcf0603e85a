"""The screen of ``minillm replay``: one step at a time, with keys to go through the run."""

from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.timer import Timer
from textual.widgets import Footer, Input, Static

from minillm.cli.replay_step import as_text, draw, find
from minillm.debug.replay import Frame

SECONDS_A_STEP = 0.5  # while it plays
KEYS = (
    "right or n: next step   left or b: back   j: jump to a number   space: play, pause   home, end: first, last   "
    "up, down: scroll   q: quit"
)


class ReplayApp(App[None]):
    """Shows ``frames[at]``."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None  # or the line for a jump, which is there but not shown, would take the keys
    CSS = """
    #note { height: auto; color: $warning; }
    #body { height: 1fr; padding: 0 1; }
    #jump { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,n", "go(1)", "next", key_display="→"),
        Binding("left,b", "go(-1)", "back", key_display="←"),
        Binding("j", "ask", "jump"),
        Binding("space", "play", "play/pause"),
        Binding("home", "first", "first"),
        Binding("end", "last", "last"),
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
        Binding("question_mark,h", "help", "keys", key_display="?"),
        Binding("down", "scroll(1)", show=False),
        Binding("up", "scroll(-1)", show=False),
        Binding("escape", "close", show=False),
    ]

    def __init__(self, frames: list[Frame], note: str = "") -> None:
        super().__init__()
        self.frames, self.note, self.at = frames, note, 0
        self.playing = False
        self._width = 80
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="note", markup=False)
        with VerticalScroll(id="body", can_focus=False):  # focused, it would take the arrow keys for itself
            yield Static(id="step")
        yield Input(id="jump", type="integer", placeholder="step number, then Enter")
        yield Footer()

    def on_mount(self) -> None:
        self._timer = self.set_interval(SECONDS_A_STEP, self._tick, pause=True)
        self._say(self.note)

    def on_resize(self, event: Resize) -> None:
        self._width = event.size.width
        self._show(self.at)

    def action_go(self, by: int) -> None:
        self._say(self.note)
        self._show(self.at + by)

    def action_first(self) -> None:
        self.action_go(-len(self.frames))

    def action_last(self) -> None:
        self.action_go(len(self.frames))

    def action_help(self) -> None:
        self._say(KEYS)

    def action_play(self) -> None:
        """Play or pause; at the end, play from the beginning."""
        self._say(self.note)
        self.playing = not self.playing
        assert self._timer
        if self.playing:
            if self.at == len(self.frames) - 1:
                self._show(0)
            self._timer.reset()
            self._timer.resume()
        else:
            self._timer.pause()

    def action_scroll(self, by: int) -> None:
        self.query_one("#body", VerticalScroll).scroll_relative(y=by, animate=False)

    def action_ask(self) -> None:
        """Ask for a step's number."""
        self._say(self.note)
        jump = self.query_one("#jump", Input)
        jump.value, jump.display = "", True
        jump.focus()

    def action_close(self) -> None:
        self.query_one("#jump", Input).display = False
        self.set_focus(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_close()
        try:
            self._show(find(self.frames, int(event.value), near=self.at))
            self._say(self.note)
        except ValueError as error:  # no such step, or no number
            self._say(str(error) if event.value.lstrip("+-").isdigit() else self.note)

    def _tick(self) -> None:
        self._show(self.at + 1)
        if self.at == len(self.frames) - 1:
            self.action_play()

    def _say(self, text: str) -> None:
        note = self.query_one("#note", Static)
        note.update(text)
        note.display = bool(text)

    def _show(self, at: int) -> None:
        self.at = min(max(at, 0), len(self.frames) - 1)
        width = max(self._width - 4, 20)  # the padding and the scroll bar
        self.query_one("#step", Static).update(as_text(draw(self.frames, self.at), width))
