"""--verbose: the log of the package, on standard error."""

import logging

from rich.console import Console

from liveedit.cli.display import shown

__all__ = ["set_verbose"]

LOG = logging.getLogger("liveedit")


class Printer(logging.Handler):
    """Prints each record on standard error as a dim line, with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        line = f"{record.relativeCreated / 1000:8.2f} s  {record.getMessage()}"
        Console(stderr=True, soft_wrap=True, highlight=False).print(shown(line, style="dim"))


def set_verbose(verbose: bool) -> None:
    """Print the log of the package down to its details, or warnings alone."""
    if verbose and not any(isinstance(handler, Printer) for handler in LOG.handlers):
        LOG.addHandler(Printer())
    LOG.setLevel(logging.DEBUG if verbose else logging.NOTSET)
