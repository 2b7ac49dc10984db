"""The command `liveedit` and ``python -m liveedit``, also under ``accelerate launch -m liveedit``."""

import os
import signal
import sys
from contextlib import suppress
from functools import partial

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line. Ctrl-C before a command begins and after its end leaves without a word."""
    heard = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # and not ignored, as behind `nohup`
    hear = partial(signal.signal, signal.SIGINT)
    if heard:
        hear(leave)

    from liveedit.cli import main as run

    try:
        run(begun=partial(hear, signal.default_int_handler) if heard else None)
    finally:
        if heard:
            hear(leave)


def leave(*_: object) -> None:
    """End at once, with what was said."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # which may be closed
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
