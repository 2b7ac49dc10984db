"""Targets of speed, on an H200 beside LLaVA-1.5-7B, and whether measurements meet them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compute import EDITS, POOLS, STORED

__all__ = ["BACKBONE", "CARD", "TARGETS", "Found", "Target"]

BACKBONE = "llava-1.5-7b"
CARD = "H200"

Found = Mapping[str, float]
"""``ms`` of a piece of work and, of a query with experts, ``ratio``: its time by an unedited one's.
"""


@dataclass(frozen=True)
class Target:
    """A limit of what was measured.

    Arguments:
        limit: The limit.
        unit: Its unit.
        value: What it limits, of a measurement.
        least: Whether it is a lower limit.
    """

    limit: float
    unit: str
    value: Callable[[Found], float]
    least: bool = False

    def __str__(self) -> str:
        """The limit in words."""
        return f"{'at least' if self.least else 'at most'} {self.limit:g} {self.unit}"

    def met(self, found: Found) -> bool:
        """Whether a measurement meets it."""
        value = self.value(found)
        return value >= self.limit if self.least else value <= self.limit

    def told(self, found: Found | None) -> str:
        """A measurement beside the target; ``None``: it did not fit into memory."""
        if found is None:
            return f"target {self}: MISSED"
        verdict = "met" if self.met(found) else "MISSED"
        return f"{self.value(found):.3g} {self.unit}, target {self}: {verdict}"


TARGETS = {
    "edit": Target(40, "ms", lambda found: found["ms"]),
    "edits": Target(100, "edits a second", lambda found: 1e3 * EDITS / found["ms"], least=True),
} | {
    f"query {experts}": Target(1.05, "of an unedited query", lambda found: found["ratio"])
    for experts in (*POOLS[1:], STORED)
}
"""By the keys of ``compute.WORK``."""
