"""Units of the numbers in tables, and how a number is printed in each."""

from collections.abc import Callable, Mapping
from typing import Literal

__all__ = ["Unit", "printed"]

Unit = Literal["percent", "count", "seconds", "bytes", "plain"]

Steps = tuple[tuple[float, str], ...]
"""Sizes of units and their symbols, the largest first."""

SECONDS: Steps = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
BYTES: Steps = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def printed(value: float, unit: Unit) -> str:
    """A number with its unit; a share between 0 and 1 in percent, without the sign."""
    return _PRINTERS[unit](value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _count(value: float) -> str:
    return f"{value:.2f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return _scaled(value, SECONDS)


def _bytes(value: float) -> str:
    return _scaled(value, BYTES)


def _scaled(value: float, steps: Steps) -> str:
    """``value`` with three significant digits, in the largest unit that is not above it."""
    size, symbol = next((step for step in steps if value >= step[0]), steps[-1])
    number = value / size
    return f"{number:.0f} {symbol}" if number >= 100 else f"{number:.3g} {symbol}"


_PRINTERS: Mapping[Unit, Callable[[float], str]] = {
    "percent": _percent,
    "count": _count,
    "seconds": _seconds,
    "bytes": _bytes,
    "plain": _plain,
}
