"""Asking a model about a case, unedited and edited, in the same batches.

The probes of a case go through the model together, whatever else is in its pool. So the same rows
stand in the same batch before and after the edits, and at every number of edits: what the edits
left alone compares bit for bit (in half precision another batch would swap close ranks by itself),
and the time of a query means the same throughout. It also lets the vision tower, which takes half
the time of a small model, run once a batch for all editors.
"""

import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from liveedit.evaluate.metrics import answers, best, kept, predictions
from liveedit.models.input_checks import naming
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM, Reply
from liveedit.types import Case, Probe, Query, visible

__all__ = ["After", "Asker", "Before"]

Row = TypeVar("Row")

SEEN_BYTES = 1 << 30
"""What the vision tower put out is kept for so many bytes; where that is full it runs again."""


@dataclass(frozen=True, slots=True)
class Before:
    """What the unedited model shows for a probe.

    Its free ``answer``; the text ``forced`` on both models to compare their tokens; the ``wanted``
    tokens there; its ``best`` tokens (n, ranks) at all n real positions, for a probe that must stay
    as it was.
    """

    answer: str
    forced: str
    wanted: tuple[int, ...]
    best: Tensor | None


@dataclass(frozen=True, slots=True)
class After:
    """What the edited model shows for a probe.

    ``fired`` are the experts that took part in its free ``answer``, with their weights; ``seconds``
    is what the answer took, its share of the batch's time, without the vision tower where that has
    seen the batch already.
    """

    answer: str
    tokens: tuple[int, ...]
    top1_kept: float | None
    top10_kept: float | None
    fired: list[tuple[int, float]]
    seconds: float


class Asker:
    """Asks about cases; remembers what the unedited model answered. At most ``batch_size`` rows go
    through together.
    """

    def __init__(self, vlm: VLM, max_new_tokens: int, batch_size: int) -> None:
        self.vlm, self.max_new_tokens, self.batch_size = vlm, max_new_tokens, batch_size
        self._before: dict[str, list[Before]] = {}
        self._seen: dict[str, Any] = {}
        self._room = SEEN_BYTES
        self._tower = self._tower_weights()

    def before(self, case: Case) -> list[Before]:
        """What the model, not patched so far, shows for each probe of the case.

        Raises :class:`BadInput`, which names case and probe, for one that the model cannot read.
        """
        if case.id not in self._before:
            with naming(case, lambda query: self._unedited([Probe("", query)])):
                self._before[case.id] = [
                    row for probes in self._batches(case.probes) for row in self._unedited(probes)
                ]
        return self._before[case.id]

    def knows(self, case: Case) -> bool:
        """Whether :meth:`before` has been asked for this case."""
        return case.id in self._before

    def ask(self, case: Case, patch: Patch) -> list[tuple[Before, After]]:
        """What the model, not patched so far, shows for each probe of the case without and with
        ``patch``.
        """
        pairs = list(zip(case.probes, self.before(case), strict=True))
        with self.vlm.patched(patch):
            after = [row for batch in self._batches(pairs) for row in self._edited(batch)]
        return list(zip(self.before(case), after, strict=True))

    def _batches(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """The rows that go through together."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def _unedited(self, probes: Sequence[Probe]) -> list[Before]:
        queries = [probe.query for probe in probes]
        with self._seeing():
            replies, _ = self._generate(queries)
            texts = [reply.text for reply in replies]
            forced = [
                probe.query.target
                if probe.wanted == "target" or visible(probe.query.target)
                else text
                for probe, text in zip(probes, texts, strict=True)
            ]
            logits, real, targets, tokens = self._force(queries, forced)
        rows = []
        for row, (probe, text) in enumerate(zip(probes, texts, strict=True)):
            stays = probe.wanted == "before"
            top = best(logits[row], real[row]) if stays else None
            rows.append(Before(text, forced[row], tokens[row] if stays else targets[row], top))
        return rows

    def _edited(self, batch: Sequence[tuple[Probe, Before]]) -> list[After]:
        queries = [probe.query for probe, _ in batch]
        with self._seeing():
            replies, seconds = self._generate(queries)
            logits, real, _, tokens = self._force(queries, [before.forced for _, before in batch])
        rows = []
        for row, (_, before) in enumerate(batch):
            top = None if before.best is None else best(logits[row], real[row])
            one, ten = (
                None if top is None or before.best is None else kept(before.best, top, n)
                for n in (1, 10)
            )
            rows.append(
                After(replies[row].text, tokens[row], one, ten, list(replies[row].fired), seconds)
            )
        return rows

    @contextmanager
    def _seeing(self) -> Iterator[None]:
        """Within it the vision tower runs once for a batch, or not at all if what it put out is
        kept from before.

        Nothing is kept, or taken from before, under a patch that changes the tower.
        """
        new: dict[str, Any] = {}
        same = self._tower_weights() == self._tower
        with self.vlm.vision_once(ChainMap(new, self._seen) if same else new):
            yield
        for pictures, output in new.items() if same else ():
            if (size := sum(tensors(output).values())) <= self._room:
                self._seen[pictures] = output
                self._room -= size

    def _tower_weights(self) -> list[int]:
        """Which tensors the vision tower computes with."""
        path = self.vlm.tower_path
        return (
            [id(weight) for weight in self.vlm.model.get_submodule(path).parameters()]
            if path
            else []
        )

    def _generate(self, queries: Sequence[Query]) -> tuple[list[Reply], float]:
        """The greedy answers, and how many seconds each took."""
        start = time.perf_counter()
        replies = self.vlm.answers(
            queries, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size
        )
        return replies, (time.perf_counter() - start) / len(queries)

    @torch.no_grad()
    def _force(
        self, queries: Sequence[Query], forced: Sequence[str]
    ) -> tuple[Tensor, Tensor, list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Teacher forcing: logits (B, T, V), which tokens are real (B, T), the forced tokens, those
        predicted there.
        """
        batch = self.vlm.encode(
            [replace(query, target=text) for query, text in zip(queries, forced, strict=True)]
        )
        logits = self.vlm.logits(batch)
        predicted = predictions(logits, batch.answer_positions())
        return logits, batch.inputs["attention_mask"].bool(), answers(batch.labels), predicted


def tensors(value: Any) -> dict[int, int]:
    """The bytes of each tensor in nested lists, tuples and mappings, by where it lies, so that none
    counts twice.
    """
    if isinstance(value, Tensor):
        return {value.data_ptr(): value.nbytes}
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return {where: size for part in parts for where, size in tensors(part).items()}
