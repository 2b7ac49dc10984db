"""The command `liveedit` and ``python -m liveedit``, also under ``accelerate launch -m liveedit``."""

import os
import signal

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line. Ctrl-C while it is imported, when nothing has begun, ends it without a word."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored, as behind `nohup`
    if heard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))

    from liveedit.cli import main as run

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
