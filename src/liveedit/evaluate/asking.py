"""Asking a model about a case, unedited and edited, in the same batches.

The probes of a case go through the model together, whatever else is in its window. So the same rows stand in the same
batch before and after the edits, and at every number of edits: what the edits left alone compares bit for bit (in half
precision another batch would swap close ranks by itself), and the time of a query means the same throughout.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from liveedit.evaluate.metrics import answers, best, kept, predictions
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

__all__ = ["After", "Asker", "Before"]


@dataclass(frozen=True, slots=True)
class Before:
    """What the unedited model shows for a probe.

    Its free ``answer``; the text ``forced`` on both models to compare their tokens; the ``wanted`` tokens there; its
    ``best`` tokens (n, ranks) at all n real positions, for a probe that must stay as it was.
    """

    answer: str
    forced: str
    wanted: tuple[int, ...]
    best: Tensor | None


@dataclass(frozen=True, slots=True)
class After:
    """What the edited model shows for a probe.

    ``fired`` are the experts that took part in its free ``answer``, with their weights; ``seconds`` is what the answer
    took, its share of the batch's time.
    """

    answer: str
    tokens: tuple[int, ...]
    top10_kept: float | None
    fired: list[tuple[int, float]]
    seconds: float


class Asker:
    """Asks about cases; remembers what the unedited model answered. At most ``batch_size`` rows go through together."""

    def __init__(self, vlm: VLM, max_new_tokens: int, batch_size: int) -> None:
        self.vlm, self.max_new_tokens, self.batch_size = vlm, max_new_tokens, batch_size
        self._before: dict[str, list[Before]] = {}

    def ask(self, case: Case, patch: Patch) -> list[tuple[Before, After]]:
        """What the model, not patched so far, shows for each probe of the case without and with ``patch``."""
        before = iter(self._before_edits(case))
        batches = [[(probe, next(before)) for probe in probes] for probes in self._batches(case)]
        with self.vlm.patched(patch):
            after = [row for batch in batches for row in self._edited(batch, patch)]
        return list(zip(self._before_edits(case), after, strict=True))

    def _before_edits(self, case: Case) -> list[Before]:
        if case.id not in self._before:
            self._before[case.id] = [row for some in self._batches(case) for row in self._unedited(some)]
        return self._before[case.id]

    def _batches(self, case: Case) -> list[Sequence[Probe]]:
        return [case.probes[i : i + self.batch_size] for i in range(0, len(case.probes), self.batch_size)]

    def _unedited(self, probes: Sequence[Probe]) -> list[Before]:
        queries = [probe.query for probe in probes]
        texts, _ = self._generate(queries)
        forced = [
            probe.query.target if probe.wanted == "target" or probe.query.target.strip() else text
            for probe, text in zip(probes, texts, strict=True)
        ]
        logits, real, targets, tokens = self._force(queries, forced)
        rows = []
        for row, (probe, text) in enumerate(zip(probes, texts, strict=True)):
            stays = probe.wanted == "before"
            top = best(logits[row], real[row]) if stays else None
            rows.append(Before(text, forced[row], tokens[row] if stays else targets[row], top))
        return rows

    def _edited(self, batch: Sequence[tuple[Probe, Before]], patch: Patch) -> list[After]:
        queries = [probe.query for probe, _ in batch]
        texts, seconds = self._generate(queries)
        fired = patch.fired() or [[] for _ in batch]
        logits, real, _, tokens = self._force(queries, [before.forced for _, before in batch])
        rows = []
        for row, (_, before) in enumerate(batch):
            share = None if before.best is None else kept(before.best, best(logits[row], real[row]))
            rows.append(After(texts[row], tokens[row], share, fired[row], seconds))
        return rows

    def _generate(self, queries: Sequence[Query]) -> tuple[list[str], float]:
        """The greedy answers, and how many seconds each took."""
        start = time.perf_counter()
        texts = self.vlm.generate(queries, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        return texts, (time.perf_counter() - start) / len(queries)

    @torch.no_grad()
    def _force(
        self, queries: Sequence[Query], forced: Sequence[str]
    ) -> tuple[Tensor, Tensor, list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Teacher forcing: logits (B, T, V), which tokens are real (B, T), the forced tokens, those predicted there."""
        batch = self.vlm.encode([replace(query, target=text) for query, text in zip(queries, forced, strict=True)])
        logits = self.vlm.logits(batch)
        predicted = predictions(logits, batch.answer_positions())
        return logits, batch.inputs["attention_mask"].bool(), answers(batch.labels), predicted
