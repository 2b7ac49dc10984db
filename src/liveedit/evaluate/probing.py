"""Probing the unedited and the edited model about a case, in the same batches.

The probes of a case go through the model together, whatever other edits the model holds. So the
same rows are in the same batch before and after the edits, and at every number of edits. An answer
that no edit changes is then equal bit for bit; in half precision, a different batch would already
swap tokens of similar probability. Query times are comparable, too. And the vision tower, which
takes half the time of a small model, runs only once per batch for all editors.
"""

import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from liveedit.evaluate.tokens import answer_tokens, predictions
from liveedit.measures.scores import LOGITS_SCORES
from liveedit.models.input_checks import naming
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM, Reply
from liveedit.types import Case, Probe, Query, visible

__all__ = ["CACHE_BYTES", "After", "Before", "Prober", "tensor_bytes"]

Row = TypeVar("Row")
Reduction = Callable[[Tensor], Tensor]

CACHE_BYTES = 1 << 30
"""Size of the cache of the vision tower's outputs; what does not fit is computed again."""


@dataclass(frozen=True, slots=True)
class Before:
    """Response of the unedited model to a probe.

    Arguments:
        answer: Its greedy generation.
        forced: The text that is forced on both models to compare their tokens.
        wanted: The tokens wanted there.
        reduced: Its logits as reduced by the scores that need them, by reduction; empty for a probe
            that does not have to stay as before.
    """

    answer: str
    forced: str
    wanted: tuple[int, ...]
    reduced: Mapping[Reduction, Tensor]


@dataclass(frozen=True, slots=True)
class After:
    """Response of the edited model to a probe.

    Arguments:
        answer: Its greedy generation.
        tokens: The tokens that it predicts for the forced text.
        scores: The scores that need logits, by name.
        fired: The experts that fired during the generation, with their weights.
        seconds: Time of the generation, as its share of the batch; without the vision tower, where
            its output is cached.
    """

    answer: str
    tokens: tuple[int, ...]
    scores: Mapping[str, float]
    fired: Sequence[tuple[int, float]]
    seconds: float


class _Forced(NamedTuple):
    """Teacher forcing of a batch.

    Logits (B, T, V), mask of the tokens that are not padding (B, T), and for each row the forced
    tokens and those predicted in their places.
    """

    logits: Tensor
    real: Tensor
    forced: list[tuple[int, ...]]
    predicted: list[tuple[int, ...]]


class Prober:
    """Probes models about cases, and remembers the responses of the unedited model.

    Arguments:
        vlm: The model.
        max_new_tokens: Largest number of tokens of a greedy generation.
        batch_size: Largest number of rows that go through the model together.
    """

    def __init__(self, vlm: VLM, max_new_tokens: int, batch_size: int) -> None:
        self.vlm = vlm
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._before: dict[str, list[Before]] = {}
        self._tower_outputs: dict[str, Any] = {}
        self._free_bytes = CACHE_BYTES
        self._tower = self._tower_weights()

    def before(self, case: Case) -> list[Before]:
        """Responses of the model, which must not be patched, to the probes of a case.

        Raises :class:`BadInput`, which names case and probe, for a probe that it cannot encode.
        """
        if case.id not in self._before:
            rows: list[Before] = []
            with naming(case, lambda query: self._unedited([Probe("", query)])):
                for probes in self._batches(case.probes):
                    rows += self._unedited(probes)
            self._before[case.id] = rows
        return self._before[case.id]

    def knows(self, case: Case) -> bool:
        """Whether the responses of the unedited model to this case are known."""
        return case.id in self._before

    def probe(self, case: Case, patch: Patch) -> list[tuple[Before, After]]:
        """Responses to the probes of a case without and with ``patch``.

        The model must not be patched yet.
        """
        before = self.before(case)
        pairs = list(zip(case.probes, before, strict=True))
        after: list[After] = []
        with self.vlm.patched(patch):
            for batch in self._batches(pairs):
                after += self._edited(batch)
        return list(zip(before, after, strict=True))

    def _batches(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """The rows that go through the model together."""
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def _unedited(self, probes: Sequence[Probe]) -> list[Before]:
        """Responses of the unedited model to one batch."""
        queries = [probe.query for probe in probes]
        with self._cached_tower():
            replies, _ = self._generate(queries)
            texts = [
                _forced_text(probe, reply.text)
                for probe, reply in zip(probes, replies, strict=True)
            ]
            found = self._force(queries, texts)
        rows = []
        for row, probe in enumerate(probes):
            stays = probe.wanted == "before"
            wanted = found.predicted[row] if stays else found.forced[row]
            reduced = _reduced(found, row) if stays else {}
            rows.append(Before(replies[row].text, texts[row], wanted, reduced))
        return rows

    def _edited(self, batch: Sequence[tuple[Probe, Before]]) -> list[After]:
        """Responses of the edited model to one batch."""
        queries = [probe.query for probe, _ in batch]
        with self._cached_tower():
            replies, seconds = self._generate(queries)
            found = self._force(queries, [before.forced for _, before in batch])
        rows = []
        for row, (_, before) in enumerate(batch):
            scores = _compared(before.reduced, found, row)
            reply = replies[row]
            rows.append(After(reply.text, found.predicted[row], scores, list(reply.fired), seconds))
        return rows

    @contextmanager
    def _cached_tower(self) -> Iterator[None]:
        """Context in which the vision tower runs once per batch, or not at all if it is cached.

        Under a patch that changes the tower nothing is cached, or taken from the cache.
        """
        new: dict[str, Any] = {}
        same = self._tower_weights() == self._tower
        with self.vlm.vision_once(ChainMap(new, self._tower_outputs) if same else new):
            yield
        if same:
            for images, output in new.items():
                self._cache(images, output)

    def _cache(self, images: str, output: Any) -> None:
        """Keep an output of the vision tower, if there is space for it."""
        size = sum(tensor_bytes(output).values())
        if size <= self._free_bytes:
            self._tower_outputs[images] = output
            self._free_bytes -= size

    def _tower_weights(self) -> list[int]:
        """Identities of the tensors with which the vision tower computes."""
        path = self.vlm.tower_path
        if not path:
            return []
        return [id(weight) for weight in self.vlm.model.get_submodule(path).parameters()]

    def _generate(self, queries: Sequence[Query]) -> tuple[list[Reply], float]:
        """The greedy generations, and the seconds that each took."""
        start = time.perf_counter()
        replies = self.vlm.answers(
            queries, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size
        )
        return replies, (time.perf_counter() - start) / len(queries)

    @torch.no_grad()
    def _force(self, queries: Sequence[Query], texts: Sequence[str]) -> _Forced:
        """Force a text on the model after each query."""
        batch = self.vlm.encode(
            [replace(query, target=text) for query, text in zip(queries, texts, strict=True)]
        )
        logits = self.vlm.logits(batch)
        return _Forced(
            logits=logits,
            real=batch.inputs["attention_mask"].bool(),
            forced=answer_tokens(batch.labels),
            predicted=predictions(logits, batch.answer_positions()),
        )


def _forced_text(probe: Probe, answer: str) -> str:
    """The target; the unedited model's answer where a probe that must stay has no target."""
    target = probe.query.target
    return target if probe.wanted == "target" or visible(target) else answer


def _reduced(found: _Forced, row: int) -> dict[Reduction, Tensor]:
    """The logits of a row as reduced by the scores that need them, by reduction."""
    logits = found.logits[row][found.real[row]]
    reductions = {formula.reduce for formula in LOGITS_SCORES.values()}
    return {reduce: reduce(logits) for reduce in reductions}


def _compared(before: Mapping[Reduction, Tensor], found: _Forced, row: int) -> dict[str, float]:
    """The scores that need logits, by name; none for a probe without reductions."""
    if not before:
        return {}
    after = _reduced(found, row)
    return {
        name: formula.compare(before[formula.reduce], after[formula.reduce])
        for name, formula in LOGITS_SCORES.items()
    }


def tensor_bytes(value: Any) -> dict[int, int]:
    """Sizes of the tensors in nested lists, tuples and mappings.

    The keys are addresses, so that no tensor counts twice.
    """
    if isinstance(value, Tensor):
        return {value.data_ptr(): value.nbytes}
    if isinstance(value, Mapping):
        value = list(value.values())
    found: dict[int, int] = {}
    if isinstance(value, list | tuple):
        for part in value:
            found |= tensor_bytes(part)
    return found
