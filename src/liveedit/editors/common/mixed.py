"""Mixed: the edits of several editors of one model in one patch.

Each edit stays with the editor that made it, in a patch of that editor, a *part*. In every row of a
batch at most one part acts: of the parts whose edits fire on the unedited states, the one with the
newest of these edits. So the last word holds whichever editor it was given to, and no editor's
edits see what another's have changed. A question's later edit supersedes earlier ones in all parts.

Where all parts write to one site, all have routed when they do. Where they write to several, the
batch first goes through the model once more, unedited, to find the edits that fire.

Shapes: B rows, T' tokens of a call, D width, E edits of all parts in the order they were made.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.branch import Branch
from liveedit.editors.common.precedence import latest_of_each_question
from liveedit.errors import BadInput
from liveedit.models.answers import Answer
from liveedit.models.batch import Batch, FiredEdit, Scores
from liveedit.models.patch import INPUT, Patch, SiteFn, acts_at_modules, site_layer
from liveedit.types import Query

__all__ = ["MixedEditor", "MixedPatch", "mixes"]

NONE = -1
"""Stands for a part in rows where none acts."""
RAW = {"input_ids", "attention_mask"}
"""The inputs in the batch of a raw call of the Hugging Face model."""


def mixes(method: type[Editor[Any]]) -> bool:
    """Whether the edits of a method may be in one patch with those of others.

    It keeps each edit by itself, independent of the others, and its edits act on states of the text
    decoder alone.
    """
    if not issubclass(method, BankEditor) or not method.independent:
        return False
    return acts_at_modules(method.patch_class)


class MixedPatch(BankPatch):
    """The edits of several editors.

    ``parts`` holds a patch of each, and ``bank`` the number ``part`` (E,) of the one that an edit
    is in.
    """

    editor: "MixedEditor"

    def __init__(self, editor: "MixedEditor", bank: Bank, parts: Sequence[BankPatch]) -> None:
        super().__init__(editor, bank)
        self.parts = tuple(parts)

    @cached_property
    def places(self) -> list[Tensor]:
        """For each part the indices of its edits in this patch."""
        return [(self.bank["part"] == number).nonzero()[:, 0] for number in range(len(self.parts))]

    @cached_property
    def rows(self) -> Tensor:
        """The row (E,) of each edit in its part."""
        rows = torch.empty(len(self), dtype=torch.long)
        for places in self.places:
            rows[places] = torch.arange(len(places))
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes of the parts."""
        return sum(part.nbytes for part in self.parts)

    def with_ledger(self, ledger: Bank, superseded: Tensor | None = None) -> Self:
        """See :meth:`BankPatch.with_ledger`. The parts get their edits' rows of the ledger."""
        made = super().with_ledger(ledger, superseded)
        earlier = ~latest_of_each_question(ledger)
        made.parts = tuple(
            part.with_ledger(ledger.select(places), earlier[places])
            for part, places in zip(self.parts, self.places, strict=True)
        )
        return made

    def with_parts(self, parts: Iterable[BankPatch]) -> Self:
        """The same edits, in other patches of the same editors."""
        made = copy(self)
        made.parts = tuple(parts)
        return made

    def row(self, index: int) -> tuple[BankPatch, int]:
        """See :meth:`BankPatch.row`."""
        return self.parts[int(self.bank["part"][index])], int(self.rows[index])

    def made_by(self, editor: BankEditor[Any]) -> BankPatch:
        """See :meth:`BankPatch.made_by`."""
        for part in self.parts:
            if part.editor.fingerprint == editor.fingerprint:
                return part
        empty: BankPatch = editor.empty()
        return empty

    def give_back(self, earlier: Self) -> None:
        """See :meth:`BankPatch.give_back`."""
        super().give_back(earlier)
        for part, before in zip(self.parts, earlier.parts, strict=True):
            part.give_back(before)

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        return Mixture(self, batch).sites()

    def save(self, folder: Path) -> None:
        """Refuse: a folder holds the edits of one editor."""
        raise BadInput(
            f"several editors made these edits, and {folder.parent} would hold those of one: keep "
            "them in a store"
        )


class MixedEditor(BankEditor[MixedPatch]):
    """Several editors of one model; the first of them makes the new edits.

    All of them have to mix (:func:`mixes`).
    """

    name = "mixed"
    patch_class = MixedPatch

    def __init__(self, editors: Sequence[BankEditor[Any]]) -> None:
        super().__init__(editors[0].vlm, editors[0].config)
        self._editors = tuple(editors)

    @property
    def editors(self) -> tuple[BankEditor[Any], ...]:
        """See :attr:`Editor.editors`."""
        return self._editors

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the editors."""
        known = [editor.fingerprint for editor in self.editors]
        return sha256(json.dumps([self.name, known]).encode()).hexdigest()

    @property
    def background_folder(self) -> str:
        """See :attr:`Editor.background_folder`; that of the editor that makes new edits."""
        return self.editors[0].background_folder

    def check(self, query: Query) -> None:
        """See :meth:`Editor.check`."""
        self.editors[0].check(query)

    def editor_of(self, patch: MixedPatch, index: int) -> Editor[Any]:
        """See :meth:`Editor.editor_of`."""
        return self.editors[int(patch.bank["part"][index])]

    def of_parts(self, parts: Sequence[BankPatch], numbers: Sequence[int]) -> MixedPatch:
        """The patch of these parts, given for each edit the number of its part."""
        part = torch.tensor(numbers, dtype=torch.long)
        return MixedPatch(self, Bank({"part": part}), parts)

    def empty(self) -> MixedPatch:
        """A patch without edits."""
        return self.of_parts([editor.empty() for editor in self.editors], [])

    def extended(self, patch: MixedPatch, queries: Sequence[Query]) -> MixedPatch:
        """See :meth:`BankEditor.extended`."""
        first, *others = patch.parts
        grown = self.editors[0].extended(first, queries)
        bank = patch.bank.append({"part": torch.zeros(len(queries), dtype=torch.long)})
        return MixedPatch(self, bank, [grown, *others])

    def selected(self, patch: MixedPatch, index: Sequence[int]) -> MixedPatch:
        """See :meth:`BankEditor.selected`."""
        chosen = torch.tensor(index, dtype=torch.long)
        bank = patch.bank.select(index)
        parts = []
        for number, (editor, part) in enumerate(zip(self.editors, patch.parts, strict=True)):
            rows: Sequence[int] = patch.rows[chosen[bank["part"] == number]].tolist()
            if rows == list(range(len(part))):
                rows = range(len(part))  # which shares storage
            parts.append(editor.selected(part, rows))
        return MixedPatch(self, bank, parts)


class Mixture:
    """The parts of a mixed patch on one batch: at each site, in each row, the part that acts."""

    def __init__(self, patch: MixedPatch, batch: Batch) -> None:
        self.patch = patch
        self.batch = batch
        self.answers = [Answer(part, batch, bound(part, batch)) for part in patch.parts]
        self.written: set[str] = set()
        for answer in self.answers:
            self.written |= written(answer.functions)
        self.acting: Tensor | None = None
        """The part (B,) that acts in each row, :data:`NONE` for none; found for the prompt."""

    def sites(self) -> dict[str, SiteFn]:
        """The functions that :meth:`Patch.bind` returns."""
        sites = sorted(set().union(*(answer.functions for answer in self.answers)))
        if len(self.written) > 1:
            self.rehearse(sites)
        return {site: AtSite(self, site) for site in sites}

    @torch.no_grad()
    def rehearse(self, sites: Sequence[str]) -> None:
        """Find the edits that fire on the unedited states of several sites.

        Raises :class:`BadInput` for a raw call about images, whose batch lacks them.
        """
        if self.batch.inputs.keys() == RAW and any(span.has_image for span in self.batch.spans):
            raise BadInput(
                "edits of several editors act at several layers: use VLM.generate or VLM.logits"
            )
        vlm = self.patch.editor.vlm
        layers = [site_layer(site.removesuffix(INPUT)) for site in sites]
        last = max(vlm.num_layers - 1 if layer is None else layer for layer in layers)
        batch = replace(self.batch, fired={}, scores={})
        with vlm.unpatched(), vlm.patched(Rehearsal(self.patch.parts)):
            vlm.hidden(batch, last)
        self.decide(batch)

    def decide(self, batch: Batch) -> Tensor:
        """Choose the part (B,) that acts in each row, given what fired in ``batch``.

        Its edits are noted as those that fired.
        """
        fired = [batch.fired_by(part) for part in self.patch.parts]
        parts = [self.newest([rows[row] for rows in fired]) for row in range(len(batch))]
        self.batch.fired[self.patch] = [
            [] if part == NONE else self.placed(part, fired[part][row])
            for row, part in enumerate(parts)
        ]
        if batch.wants_scores:
            self.batch.scores[self.patch] = self.scores(batch)
        self.acting = torch.tensor(parts)
        return self.acting

    def newest(self, fired: Sequence[Sequence[FiredEdit]]) -> int:
        """The part with the newest of the edits that fired, given those of each part."""
        newest = NONE
        chosen = NONE
        for part, edits in enumerate(fired):
            for place, _ in self.placed(part, edits):
                if place > newest:
                    newest, chosen = place, part
        return chosen

    def placed(self, part: int, fired: Sequence[FiredEdit]) -> list[FiredEdit]:
        """Edits of a part that fired, by their index in the whole patch."""
        places = self.patch.places[part]
        return [(int(places[edit]), weight) for edit, weight in fired]

    def scores(self, batch: Batch) -> list[Scores]:
        """How near each row came to every edit."""
        found = [batch.scores_of(part) for part in self.patch.parts]
        return [self.row_scores([scores[row] for scores in found]) for row in range(len(batch))]

    def row_scores(self, found: Sequence[Scores | None]) -> Scores:
        """The scores of one row, given those of each part."""
        columns: dict[str, list[Tensor]] = {field.name: [] for field in fields(Scores)}
        for places, scores in zip(self.patch.places, found, strict=True):
            if scores is None:
                continue
            missing = torch.full((len(scores.edits),), torch.nan)
            for name, column in columns.items():
                value = getattr(scores, name)
                column.append(missing if value is None else value.cpu())
            columns["edits"][-1] = places[columns["edits"][-1]]
        parts = {name: torch.cat(column) for name, column in columns.items() if column}
        none = torch.empty(0)
        return Scores(**parts) if parts else Scores(none.long(), none)

    def at(self, site: str, x: Tensor) -> Tensor:
        """The states ``x`` (B, T', D) at a site, each row as the part that acts in it has it."""
        outputs = {
            part: answer.functions[site](x)
            for part, answer in enumerate(self.answers)
            if site in answer.functions
        }
        if site not in self.written:
            return x
        acting = self.decide(self.batch) if self.acting is None else self.acting
        changed = x
        for part, output in outputs.items():
            if output is not x:
                changed = in_rows(acting == part, output, changed)
        return changed

    def rewind(self, length: int) -> None:
        """See :meth:`Branch.rewind`."""
        for answer in self.answers:
            for rewind in answer.methods("rewind"):
                rewind(length)

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`Branch.reorder`."""
        for answer in self.answers:
            answer.reorder(rows)
        if self.acting is not None:
            self.acting = self.acting[rows.to(self.acting.device)]


class AtSite:
    """The function of a mixture at one site. Like a method it names the object with the state."""

    def __init__(self, mixture: Mixture, site: str) -> None:
        self.__self__ = mixture
        self.site = site

    def __call__(self, x: Tensor) -> Tensor:
        """The states (B, T', D) as the mixture changes them."""
        return self.__self__.at(self.site, x)


class Rehearsal(Patch):
    """Lets patches route and note what fires, and changes nothing."""

    def __init__(self, parts: Sequence[BankPatch]) -> None:
        self.parts = parts

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        found: dict[str, list[SiteFn]] = {}
        for part in self.parts:
            for site, function in bound(part, batch).items():
                found.setdefault(site, []).append(function)
        return {site: unchanged_by(functions) for site, functions in found.items()}


def unchanged_by(functions: Sequence[SiteFn]) -> SiteFn:
    """A function that calls others on a state, and returns the state as it was."""

    def call(x: Tensor) -> Tensor:
        for function in functions:
            function(x)
        return x

    return call


def bound(part: BankPatch, batch: Batch) -> dict[str, SiteFn]:
    """The functions of a part; none where it has no edit."""
    return part.bind(batch) if len(part) else {}


def written(functions: Mapping[str, SiteFn]) -> set[str]:
    """The sites that functions may change; at others those of a branch only read."""
    found = set()
    for site, function in functions.items():
        branch = getattr(function, "__self__", None)
        found.add(branch.writes if isinstance(branch, Branch) else site)
    return found


def in_rows(rows: Tensor, output: Tensor, before: Tensor) -> Tensor:
    """``output`` (B, T', D) in some rows, boolean (B,), and ``before`` in the others."""
    if not bool(rows.any()):
        return before
    if bool(rows.all()):
        return output
    return torch.where(rows.to(output.device)[:, None, None], output, before)
