"""Ctrl-C that stops a training at a safe point."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C: yield a function that says whether it came.

    The second Ctrl-C interrupts at once, as usual. Outside of the main thread, which alone receives
    signals, the function always returns false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
