"""The command `liveedit`, ``python -m liveedit`` and ``accelerate launch -m liveedit``."""

import os
import signal
import sys
from contextlib import suppress
from functools import partial

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


def main() -> None:
    """Run the command line. Ctrl-C before a command begins, or after its end, exits silently."""
    # Under `nohup` and in the background shells ignore SIGINT; that stays so.
    listening = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    handle = partial(signal.signal, signal.SIGINT)
    if listening:
        handle(leave)

    from liveedit.cli import main as run

    try:
        run(partial(handle, signal.default_int_handler) if listening else None)
    finally:
        if listening:
            handle(leave)


def leave(*_: object) -> None:
    """Exit at once, after what has been printed."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
