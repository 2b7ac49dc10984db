"""Probing the unedited and the edited model about a case, in the same batches.

The probes of a case go through the model together, whatever other edits the model holds. So the
same rows are in the same batch before and after the edits, and at every number of edits. An answer
that no edit changes is then equal bit for bit; in half precision, a different batch would already
swap tokens of similar probability. And the vision tower, which takes half the time of a small
model, runs only once per batch for all editors; so do the layers below the edits.

The edited model's answer is mostly known once a text has been forced on it for the scores. Its
logits are those of the unedited model to the bit, whose answer it then gives; or it chooses each
token of that text and then ends. Only the other answers are generated.
"""

import time
from collections import ChainMap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from liveedit.evaluate.tokens import answer_tokens, predictions, shown_answer
from liveedit.measures.scores import LOGITS_SCORES
from liveedit.models.batch import Batch
from liveedit.models.input_checks import naming
from liveedit.models.lower_layers import LowerLayers
from liveedit.models.patch import Patch
from liveedit.models.vision_cache import digest
from liveedit.models.vlm import VLM, Reply
from liveedit.types import Case, Probe, Query, visible

__all__ = ["CACHE_BYTES", "After", "Before", "Prober", "tensor_bytes"]

Row = TypeVar("Row")
Reduction = Callable[[Tensor], Tensor]

CACHE_BYTES = 1 << 30
"""Size of the cache of the vision tower's outputs, and of that of the layers below the edits; what
does not fit is computed again.
"""


@dataclass(frozen=True, slots=True)
class Before:
    """Response of the unedited model to a probe.

    Arguments:
        answer: Its greedy generation.
        forced: The text that is forced on both models to compare their tokens.
        wanted: The tokens wanted there.
        digest: The digest of the logits from which those tokens and the next one are predicted.
        reduced: Its logits as reduced by the scores that need them, by reduction; empty for a probe
            that does not have to stay as before.
    """

    answer: str
    forced: str
    wanted: tuple[int, ...]
    digest: str
    reduced: Mapping[Reduction, Tensor]


@dataclass(frozen=True, slots=True)
class After:
    """Response of the edited model to a probe.

    Arguments:
        answer: Its greedy generation.
        tokens: The tokens that it predicts for the forced text.
        scores: The scores that need logits, by name.
        fired: The experts that fired, with their weights.
        seconds: Time of the generation, as its share of the batch, without the vision tower where
            its output is cached; ``None`` where it was not timed.
    """

    answer: str
    tokens: tuple[int, ...]
    scores: Mapping[str, float]
    fired: Sequence[tuple[int, float]]
    seconds: float | None


class _Forced(NamedTuple):
    """Teacher forcing of a batch.

    Logits (B, T, V), mask of the tokens that are not padding (B, T), and for each row the forced
    tokens, those predicted in their places with the next one, and the digest of the logits there.
    """

    logits: Tensor
    real: Tensor
    forced: list[tuple[int, ...]]
    predicted: list[tuple[int, ...]]
    digests: list[str]

    def tokens(self, row: int) -> tuple[int, ...]:
        """The tokens predicted in place of the forced ones."""
        return self.predicted[row][:-1]


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
        self._lower: dict[Hashable, LowerLayers] = {}
        self.lower_bytes = 0
        """Bytes of what is kept of the layers below the edits."""

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

    def probe(self, case: Case, patch: Patch, timed: bool = False) -> list[tuple[Before, After]]:
        """Responses to the probes of a case without and with ``patch``.

        Where they are ``timed``, all answers are generated. The model must not be patched yet.
        """
        before = self.before(case)
        pairs = list(zip(case.probes, before, strict=True))
        after: list[After] = []
        with self.vlm.patched(patch):
            for number, batch in enumerate(self._batches(pairs)):
                after += self._edited(batch, patch, (case.id, number), timed)
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
            found = self._force(self._forced(texts, queries))
        rows = []
        for row, probe in enumerate(probes):
            stays = probe.wanted == "before"
            wanted = found.tokens(row) if stays else found.forced[row]
            reduced = _reduced(found, row) if stays else {}
            answer = replies[row].text
            rows.append(Before(answer, texts[row], wanted, found.digests[row], reduced))
        return rows

    def _edited(
        self, batch: Sequence[tuple[Probe, Before]], patch: Patch, name: Hashable, timed: bool
    ) -> list[After]:
        """Responses of the model with ``patch`` to the batch ``name``."""
        queries = [probe.query for probe, _ in batch]
        forced = self._forced([before.forced for _, before in batch], queries)
        with self._cached_tower():
            with self._cached_layers(name, self.vlm.unchanged_layers(patch, forced)):
                found = self._force(forced)
            answers, seconds = self._answers(found, batch, timed)
        fired = forced.fired_by(patch)
        rows = []
        for row, (_, before) in enumerate(batch):
            scores = _compared(before.reduced, found, row)
            rows.append(After(answers[row], found.tokens(row), scores, fired[row], seconds))
        return rows

    def _answers(
        self, found: _Forced, batch: Sequence[tuple[Probe, Before]], timed: bool
    ) -> tuple[list[str], float | None]:
        """The greedy answers, and the seconds that each took if they are ``timed``.

        Where the forced texts show no answer, or to time them all, they are generated.
        """
        shown = [self._shown(found, row, before) for row, (_, before) in enumerate(batch)]
        rows = [row for row, answer in enumerate(shown) if timed or answer is None]
        generated: dict[int, str] = {}
        seconds = None
        if rows:
            replies, each = self._generate([batch[row][0].query for row in rows])
            generated = {row: reply.text for row, reply in zip(rows, replies, strict=True)}
            seconds = each if timed else None
        answers = [generated[row] if answer is None else answer for row, answer in enumerate(shown)]
        return answers, seconds

    def _shown(self, found: _Forced, row: int, before: Before) -> str | None:
        """The greedy answer to a probe, as far as the forced text shows it."""
        if found.digests[row] == before.digest:
            return before.answer
        stops = self.vlm.stops
        tokens = shown_answer(found.forced[row], found.predicted[row], stops, self.max_new_tokens)
        return None if tokens is None else self.vlm.decode_answers([tokens])[0]

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

    @contextmanager
    def _cached_layers(self, batch: Hashable, count: int) -> Iterator[None]:
        """Context in which the first ``count`` layers run once for the batch of this name."""
        name = (batch, count)
        kept = self._lower.get(name) or LowerLayers(self.vlm.layers[:count])
        with kept.reused():
            yield
        if name not in self._lower and self.lower_bytes + kept.nbytes <= CACHE_BYTES:
            self._lower[name] = kept
            self.lower_bytes += kept.nbytes

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

    def _forced(self, texts: Sequence[str], queries: Sequence[Query]) -> Batch:
        """The batch that forces a text on the model after each query."""
        return self.vlm.encode(
            [replace(query, target=text) for query, text in zip(queries, texts, strict=True)]
        )

    @torch.no_grad()
    def _force(self, batch: Batch) -> _Forced:
        """The model's response to forced texts."""
        logits = self.vlm.logits(batch)
        places = batch.answer_positions()
        places[range(len(batch)), [span.stop - 1 for span in batch.spans]] = True
        return _Forced(
            logits=logits,
            real=batch.inputs["attention_mask"].bool(),
            forced=answer_tokens(batch.labels),
            predicted=predictions(logits, places),
            digests=[digest([row[marked]], {}) for row, marked in zip(logits, places, strict=True)],
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
