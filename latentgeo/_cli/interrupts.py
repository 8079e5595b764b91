"""Ctrl-C and `kill`: a command ends at once, with one line and the exit code that shells know (130, 143).

Both arrive as a KeyboardInterrupt in the main thread, so that files half written are removed on its way out.
"""

from __future__ import annotations

import gc
import signal
from typing import Any

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# What commands that can be resumed say of it.
_GOES_ON = {
    "pairwise": "the same command goes on where it stopped",
    "train": "the same command, without --fresh, goes on after the last epoch that was finished",
}
_received: list[int] = []


def listen() -> None:
    """From now on SIGTERM interrupts as Ctrl-C does, and which of them came is known. Ignored signals stay ignored."""
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: Any) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def came() -> bool:
    """Whether a signal has come. Libraries may have made another error of the interrupt."""
    return bool(_received)


def outcome(command: str | None) -> tuple[str, int]:
    """What to say of an interrupted command that ends now, and its exit code."""
    gc.freeze()  # or Python searches all of torch for garbage on its way out, which takes seconds on a busy machine
    number = signal.Signals(_received[0]) if _received else signal.SIGINT
    more = f"; {_GOES_ON[command]}" if command in _GOES_ON else ""
    return f"{_WORDS[number]}{more}", 128 + number
