"""A whole evaluation: every window of the plan, one record a probe, to be stopped and gone on with at any time."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers

import liveedit
from liveedit.editors.base import Editor
from liveedit.evaluate.asking import After, Asker, Before
from liveedit.evaluate.journal import Journal
from liveedit.evaluate.protocol import Window, plan
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Firing, Query, Record

__all__ = ["Progress", "evaluate"]

Progress = Callable[[int, int, str], None]
"""Told how many probes are done, how many there are, and at what the run is."""

FIRED = 5
"""How many experts a record lists, the heaviest first."""
SHORTEST = 16
"""Free answers may take this many tokens, or as many as the longest target with its end."""


def evaluate(
    vlm: VLM,
    editor: Editor,
    cases: Sequence[Case],
    *,
    edits: Sequence[int] = (1, 10, 100, 1000),
    data: str,
    seed: int,
    out: Path,
    max_cases: int = 200,
    ask: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Path:
    """Run the lifelong test and return the file of records, in the folder ``out``.

    For each number in ``edits`` windows of so many edits are evaluated until they cover ``max_cases`` cases; of each
    window's cases at most ``ask``, evenly spread, are asked about. ``data`` and ``seed`` name the cases and their
    order in the records. Whatever ``out`` holds already is not done again.

    Raises :class:`BadInput` where there are too few cases, :class:`Mismatch` if ``out`` belongs to another model,
    editor, data or seed, :class:`StorageError` where writing fails; the records written so far stay.
    """
    planned = plan(cases, edits, max_cases, ask)
    limit = answer_limit(vlm, cases)
    identity = _identity(vlm, editor, cases) | {"data": data, "seed": seed, "max_new_tokens": limit}
    settings = {"edits": list(edits), "max_cases": max_cases, "ask": ask, "batch_size": batch_size}
    journal = Journal(Path(out), identity, _call(vlm) | settings)
    run = _Run(editor, Asker(vlm, limit, batch_size), journal, planned, data, seed, progress)
    for window in planned:
        run.evaluate(window)
    return journal.path


class _Run:
    """One evaluation under way."""

    def __init__(
        self, editor: Editor, asker: Asker, journal: Journal, planned: Sequence[Window], data: str, seed: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.editor, self.asker, self.journal, self.planned = editor, asker, journal, planned
        self.data, self.seed, self.progress = data, seed, progress
        self.total = sum(len(window.cases[place].probes) for window in planned for place in window.asked)
        self.remaining = sum(len(self._missing(window, place)) for window in planned for place in window.asked)

    def evaluate(self, window: Window) -> None:
        """Edit what belongs to the window, ask what is not on record yet. Nothing is edited if nothing is to ask."""
        asked = [place for place in window.asked if self._missing(window, place)]
        if not asked:
            return
        self._tell(window, "editing")
        queries = window.queries
        patch, seconds = self._edit(queries)
        cost = {"edit_seconds": seconds / len(queries), "edit_bytes": getattr(patch, "nbytes", 0) // max(1, len(patch))}
        for place in asked:
            self._tell(window, "asking")
            missing = self._missing(window, place)
            shown = self.asker.ask(window.cases[place], patch)
            self.journal.append([self._record(window, place, probe, *shown[probe], cost) for probe in missing])
            self.remaining -= len(missing)
        self._tell(window, "done")

    def _edit(self, queries: Sequence[Query]) -> tuple[Patch, float]:
        """The patch with all edits, and the seconds that it took."""
        start = time.perf_counter()
        patch = self.editor.edit(queries)
        if self.asker.vlm.device.type == "cuda":
            torch.cuda.synchronize()
        return patch, time.perf_counter() - start

    def _missing(self, window: Window, place: int) -> list[int]:
        """The probes of a case that are not on record yet."""
        case = window.cases[place]
        done = self.journal.done
        return [i for i in range(len(case.probes)) if (window.edits, window.index, case.id, i) not in done]

    def _record(
        self, window: Window, place: int, number: int, before: Before, after: After, cost: dict[str, Any]
    ) -> Record:
        case, own = window.cases[place], window.own(place)
        probe = case.probes[number]
        heaviest = sorted(after.fired, key=lambda pair: -pair[1])[:FIRED]
        return Record(
            editor=self.editor.name,
            data=self.data,
            edits=window.edits,
            window=window.index,
            seed=self.seed,
            case=case.id,
            probe=number,
            metric=probe.metric,
            wanted=probe.wanted,
            prompt=probe.query.prompt,
            target=probe.query.target,
            image=image_name(probe.query),
            note=probe.note,
            answer_before=before.answer,
            answer_after=after.answer,
            tokens_wanted=before.wanted,
            tokens_after=after.tokens,
            top10_kept=after.top10_kept,
            fired=tuple(Firing(expert, weight, expert in own) for expert, weight in heaviest),
            experts_fired=len(after.fired),
            query_seconds=after.seconds,
            **cost,
        )

    def _tell(self, window: Window, stage: str) -> None:
        if self.progress is not None:
            label = f"{window.edits} edits, window {window.index + 1}, {stage}"
            self.progress(self.total - self.remaining, self.total, label)


def answer_limit(vlm: VLM, cases: Sequence[Case]) -> int:
    """How many tokens a free answer may take: so many that every target fits, and no fewer than 16."""
    targets = {probe.query.target for case in cases for probe in case.probes if probe.wanted == "target"}
    ids = vlm.tokenizer(sorted(targets), add_special_tokens=False)["input_ids"] if targets else []
    return max(SHORTEST, *(len(row) + 1 for row in ids), 0)


def image_name(query: Query) -> str:
    """What records call a query's image: its path, or the ``name`` in a picture's ``info``; empty without image."""
    image = query.image
    if image is None:
        return ""
    return str(image.info.get("name", "") if hasattr(image, "info") else image)


def _identity(vlm: VLM, editor: Editor, cases: Sequence[Case]) -> dict[str, Any]:
    """What the records of one folder must have in common."""
    return {
        "model": vlm.fingerprint,
        "prompt_format": vlm.prompt_format,
        "editor": editor.name,
        "config": asdict(editor.config),
        "editor_fingerprint": editor.fingerprint,
        "cases": _digest(cases),
    }


def _digest(cases: Sequence[Case]) -> str:
    """SHA-256 over all that the cases say, the pixels of their images excepted."""
    digest = sha256()
    for case in cases:
        edits = [(query.prompt, query.target, image_name(query)) for query in case.edits]
        probes = [(p.metric, p.wanted, p.query.prompt, p.query.target, image_name(p.query)) for p in case.probes]
        digest.update(json.dumps([case.id, edits, probes]).encode())
    return digest.hexdigest()


def _call(vlm: VLM) -> dict[str, Any]:
    """Where and with what this process runs."""
    modules = {"liveedit": liveedit, "torch": torch, "transformers": transformers}
    return {
        "command": shlex.join(sys.argv),
        "versions": {"python": platform.python_version()} | {name: str(m.__version__) for name, m in modules.items()},
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(vlm.device),
        "dtype": str(vlm.dtype),
    }
