"""Costs: times and sizes that a run measures, each declared once.

To add a cost, declare it in :data:`COSTS` with a formula over :class:`Usage`: it is then written
into the records and shown by the report.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from liveedit.measures.units import Unit

__all__ = ["COSTS", "Cost", "Usage", "cost_named", "cost_names", "costs_of"]


@dataclass(frozen=True)
class Usage:
    """Time and memory used up to the evaluation of a probe.

    Arguments:
        edits: Number of edits made since the model was unedited.
        edit_seconds: Wall-clock seconds that the editor took for all of them.
        patch_bytes: Size of the patch.
        patch_edits: Number of edits that the patch holds.
        query_seconds: Wall-clock seconds of the generation of an answer, as its share of the batch;
            ``None`` where it was not timed.
        peak_bytes: Highest memory since the first edit, above the memory in use before it.
    """

    edits: int
    edit_seconds: float
    patch_bytes: int
    patch_edits: int
    query_seconds: float | None
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """A cost of editing or of querying an edited model.

    Arguments:
        name: Name in records and summaries.
        heading: Heading of its column.
        meaning: One sentence that says what is measured.
        unit: Unit of its values.
        formula: Its value; ``None`` where it was not measured.
        per: Whether it counts once per edit, however many probes its case has, or once per probe.
        pooled: Whether tables show the mean or the largest value.
        optional: Whether its column is left out where it was measured nowhere.
    """

    name: str
    heading: str
    meaning: str
    unit: Unit
    formula: Callable[[Usage], float | None]
    per: Literal["edit", "probe"]
    pooled: Literal["mean", "largest"] = "mean"
    optional: bool = False


COSTS = (
    Cost(
        name="edit_seconds",
        heading="Time per edit",
        meaning="Wall-clock time of the editor over all edits so far, divided by their number.",
        unit="seconds",
        formula=lambda used: used.edit_seconds / used.edits,
        per="edit",
    ),
    Cost(
        name="edit_bytes",
        heading="Memory per edit",
        meaning="Size of the patch, divided by the number of its edits.",
        unit="bytes",
        formula=lambda used: used.patch_bytes // max(1, used.patch_edits),
        per="edit",
    ),
    Cost(
        name="query_seconds",
        heading="Time per query",
        meaning="Wall-clock time of a greedy answer, without the vision tower where its output is "
        "cached, over the first cases of each number of edits.",
        unit="seconds",
        formula=lambda used: used.query_seconds,
        per="probe",
    ),
    Cost(
        name="peak_bytes",
        heading="Peak memory",
        meaning="Highest memory while the model was edited and evaluated, less that before.",
        unit="bytes",
        formula=lambda used: used.peak_bytes,
        per="probe",
        pooled="largest",
        optional=True,
    ),
)
"""All costs, in the order of the columns. A new one is one more entry."""

_BY_NAME = {cost.name: cost for cost in COSTS}


def costs_of(used: Usage) -> dict[str, float]:
    """The costs that were measured, by name."""
    values = {cost.name: cost.formula(used) for cost in COSTS}
    return {name: value for name, value in values.items() if value is not None}


def cost_names(names: Iterable[str]) -> list[str]:
    """The declared costs in their order, then those among ``names`` that are not declared."""
    return [*_BY_NAME, *sorted(set(names) - _BY_NAME.keys())]


def cost_named(name: str) -> Cost:
    """The declaration of a cost; one that is not declared is a mean without unit."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    return Cost(name, name, "", "plain", _unknown, per="probe", optional=True)


def _unknown(used: Usage) -> float:
    """Raise an error, for a cost without a formula in this version."""
    raise NotImplementedError(used)
