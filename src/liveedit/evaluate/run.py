"""A whole evaluation: all that a protocol asks, one record a probe, to be stopped and gone on with
at any time.

Under ``accelerate launch`` or ``torchrun`` what is asked is shared out among the processes; each
edits the pools that it asks about.
"""

import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState

import liveedit
from liveedit.artifacts import locked
from liveedit.data.images import check_readable
from liveedit.editors.base import Editor
from liveedit.errors import BadInput
from liveedit.evaluate.asking import After, Asker, Before
from liveedit.evaluate.journal import Journal, note_failure
from liveedit.evaluate.peak_memory import PeakMemory
from liveedit.evaluate.progress import Clock, Progress, Watcher
from liveedit.evaluate.protocol import Ask, Pool, Protocol, plan
from liveedit.models.input_checks import check_cases
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import digest, image_name
from liveedit.settings import check_seed
from liveedit.types import Case, Firing, Query, Record, expanded

__all__ = ["Evaluation", "evaluate", "processes"]

FIRED = 5
"""How many experts a record lists, the heaviest first."""
SHORTEST = 16
"""Free answers may take this many tokens, or as many as the longest target with its end."""
ASSETS = Path(liveedit.__file__).parent / "assets"
PATIENCE = timedelta(days=7)
"""How long a process that has done its share waits for the others."""


def processes() -> PartialState:
    """The processes that share this run: those of ``accelerate launch`` or ``torchrun``, otherwise
    this one.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def evaluate(
    vlm: VLM,
    editor: Editor,
    cases: Sequence[Case],
    protocol: Protocol,
    *,
    data: str,
    seed: int,
    out: Path,
    label: str = "",
    batch_size: int = 32,
    watcher: Watcher | None = None,
) -> Path:
    """An :class:`Evaluation` of one editor; the file of its records, in the folder ``out``, is
    returned.

    Raises as it says, and whatever the editor does.
    """
    evaluation = Evaluation(vlm, cases, protocol, data=data, seed=seed, batch_size=batch_size)
    evaluation.add(editor, out, label)
    [path] = evaluation.run(watcher)
    for error in evaluation.errors.values():
        raise error
    return path


class Evaluation:
    """The test of any number of editors on one model and benchmark; what the unedited model shows
    is asked once.

    An editor that fails is written down, and the next one is begun; :attr:`errors` has, by label,
    of what. ``data`` and ``seed`` name the cases and their order in the records. Raises
    :class:`BadInput` where there are too few cases for the protocol, and for a seed beyond 32 bits.
    """

    def __init__(
        self,
        vlm: VLM,
        cases: Sequence[Case],
        protocol: Protocol,
        *,
        data: str,
        seed: int,
        batch_size: int = 32,
    ) -> None:
        check_seed(seed)
        self.vlm, self.cases, self.protocol, self.data, self.seed = vlm, cases, protocol, data, seed
        self.asks = plan(cases, protocol)
        self.asker = Asker(vlm, answer_limit(vlm, cases), batch_size)
        self.processes, self.clock = processes(), Clock()
        self.done = self.total = 0
        self.errors: dict[str, Exception] = {}
        self._runs: list[_Run] = []

    def add(self, editor: Editor, out: Path, label: str = "") -> None:
        """Have ``editor`` tested; its records, in the folder ``out``, call it ``label``, or by its
        own name.

        Whatever ``out`` holds already is not done again. Raises :class:`Mismatch` if ``out``
        belongs to another model, editor, data or seed, :class:`BadInput` if its files are damaged
        or somebody else's, and for a label that no file can have in its name, :class:`StorageError`
        where writing fails and while another process writes there.
        """
        label = label or editor.name
        if Path(label).name != label or not label.isprintable():
            raise BadInput(
                f"no editor can be called {label!r}, which is to be a part of a file's name: choose another"
            )
        identity = _identity(self.vlm, editor, self.cases) | {
            "editor": label,
            "data": self.data,
            "seed": self.seed,
        }
        identity["max_new_tokens"] = self.asker.max_new_tokens
        call = _call(self.vlm) | {"protocol": self.protocol.name, **asdict(self.protocol)}
        call |= {"batch_size": self.asker.batch_size, "processes": self.processes.num_processes}
        folder = expanded(out)
        with self.processes.main_process_first(), self._alone(folder):
            journal = Journal(folder, identity, call, self.cases, self.processes.process_index)
        self._runs.append(_Run(self, editor, label, journal))

    def run(self, watcher: Watcher | None = None) -> list[Path]:
        """Test the editors one after another; the files of their records are returned.

        What makes one fail, in this process, is put into :attr:`errors`. Raises :class:`BadInput`
        for an image that cannot be read, and for a text that the model cannot, before anything is
        asked, and :class:`StorageError` where writing fails and while another process writes to one
        of the folders; the records written so far stay.
        """
        with ExitStack() as held:
            for run in self._runs:
                held.enter_context(self._alone(run.journal.folder))
            self._test(watcher)
        return [run.journal.path for run in self._runs]

    def _alone(self, folder: Path) -> AbstractContextManager[None]:
        """Within it no other run writes to ``folder``; the first of several processes sees to that
        for all.
        """
        return locked(folder, patience=0) if self.processes.is_main_process else nullcontext()

    def _test(self, watcher: Watcher | None) -> None:
        """Test the editors in folders that nobody else writes to."""
        self.processes.wait_for_everyone()  # who reads the records of earlier calls has to be done with that
        self._share()
        check_readable(image for run in self._runs for ask in run.asks for image in ask.images)
        check_cases(self.vlm, self._cases())
        for run in self._runs:
            run.run(watcher)
        self.processes.wait_for_everyone()
        if self.processes.is_main_process:
            for run in self._runs:
                run.journal.merge()

    def _cases(self) -> list[Case]:
        """The cases that this process edits or asks about, each once."""
        made: dict[Pool, int] = {}
        for ask in (ask for run in self._runs for ask in run.asks):
            made[ask.pool] = max(made.get(ask.pool, 0), ask.point.made, ask.place + 1)
        return list(
            {case.id: case for pool, count in made.items() for case in pool.cases[:count]}.values()
        )

    def _share(self) -> None:
        """Give each editor's run what this process is to ask, and tell the clock how much work that
        is.

        What is missing, editor after editor, is cut into as many pieces as there are processes: so
        few pools are edited twice.
        """
        missing = [(run, ask) for run in self._runs for ask in self.asks if run.missing(ask)]
        with self.processes.split_between_processes(missing) as share:
            for run, ask in share:
                run.asks.append(ask)
        self.done = sum(
            len(ask.case.probes) - len(run.missing(ask)) for run in self._runs for ask in self.asks
        )
        self.total = self.done + sum(len(run.missing(ask)) for run, ask in share)
        self.clock.left["unedited", ""] = len(
            {ask.case.id for _, ask in share if not self.asker.knows(ask.case)}
        )
        for run in self._runs:
            self.clock.left["ask", run.label] = len(run.asks)
            self.clock.left["edit", run.label] = sum(
                pool.held[asks[-1].point.made] for pool, asks in by_pool(run.asks)
            )


class _Run:
    """The test of one editor; ``asks`` is this process's share of what is not on record yet."""

    def __init__(
        self, evaluation: Evaluation, editor: Editor, label: str, journal: Journal
    ) -> None:
        self.evaluation, self.editor, self.label, self.journal = evaluation, editor, label, journal
        self.asker, self.clock = evaluation.asker, evaluation.clock
        self.asks: list[Ask] = []

    def missing(self, ask: Ask) -> list[int]:
        """The probes of a case that are not on record yet."""
        where = self.evaluation.protocol.name, ask.point.edits, ask.point.window, ask.case.id
        return [
            probe
            for probe in range(len(ask.case.probes))
            if (*where, probe) not in self.journal.done
        ]

    def run(self, watcher: Watcher | None) -> None:
        """Ask what is to be asked, pool by pool, until the editor fails."""
        self.watcher = watcher
        try:
            for pool, asks in by_pool(self.asks):
                self._unedited(asks)
                self._pool(pool, asks)
        except Failed as failed:
            error = self.evaluation.errors[self.label] = failed.error
            self.clock.drop(self.label)
            line = note_failure(self.journal.folder, self.label, self.stage, error)
            traceback.clear_frames(
                error.__traceback__
            )  # which hold the tensors that it was working on
            self._tell("failed", line)
        else:
            if self.asks:
                self._tell("done")

    def _unedited(self, asks: Sequence[Ask]) -> None:
        """Have the unedited model asked first, so that what is kept of it does not count as the
        edits' memory.
        """
        for ask in asks:
            if not self.asker.knows(ask.case):
                self._tell("unedited model")
                with self.clock.doing("unedited", "", 1):
                    self.asker.before(ask.case)

    def _pool(self, pool: Pool, asks: Sequence[Ask]) -> None:
        """Edit a pool as far as there is something to ask, and ask it on the way."""
        patch: Patch | None = None
        seconds, memory = 0.0, PeakMemory(self.asker.vlm.device)
        for start, stop in pool.steps:
            if start >= asks[-1].point.made:
                break
            self._tell(f"editing {pool.held[stop]:,} of {pool.held[-1]:,}")
            began = time.perf_counter()
            patch = self._edit(pool.queries(start, stop), patch)
            seconds += time.perf_counter() - began
            cost = {
                "edit_seconds": seconds / pool.held[stop],
                "edit_bytes": getattr(patch, "nbytes", 0) // max(1, len(patch)),
            }
            for ask in (ask for ask in asks if ask.point.made == stop):
                self._tell(f"asking after {ask.point.edits:,} edits, window {ask.point.window + 1}")
                missing = self.missing(ask)
                with self.clock.doing("ask", self.label, 1), failing():
                    shown = self.asker.ask(ask.case, patch)
                cost["peak_bytes"] = memory.rise()
                self.journal.append(
                    [self._record(ask, probe, *shown[probe], cost) for probe in missing]
                )
                self.evaluation.done += len(missing)

    def _edit(self, queries: Sequence[Query], patch: Patch | None) -> Patch:
        """The patch with the queries edited into it."""
        with self.clock.doing("edit", self.label, len(queries)), failing():
            made = self.editor.edit(queries, patch)
            if self.asker.vlm.device.type == "cuda":
                torch.cuda.synchronize()
        return made

    def _record(
        self, ask: Ask, number: int, before: Before, after: After, cost: dict[str, Any]
    ) -> Record:
        probe = ask.case.probes[number]
        heaviest = sorted(after.fired, key=lambda pair: -pair[1])[:FIRED]
        return Record(
            editor=self.label,
            data=self.evaluation.data,
            edits=ask.point.edits,
            window=ask.point.window,
            seed=self.evaluation.seed,
            case=ask.case.id,
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
            top1_kept=after.top1_kept,
            top10_kept=after.top10_kept,
            fired=tuple(Firing(expert, weight, expert in ask.own) for expert, weight in heaviest),
            experts_fired=len(after.fired),
            query_seconds=after.seconds,
            protocol=self.evaluation.protocol.name,
            later=ask.later,
            **cost,
        )

    def _tell(self, stage: str, failure: str = "") -> None:
        self.stage = stage
        if self.watcher is not None:
            done, total = self.evaluation.done, self.evaluation.total
            self.watcher(
                Progress(self.label, stage, done, total, self.clock.seconds_left(), failure)
            )


class Failed(Exception):
    """Carries what an editor failed of."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def failing() -> Iterator[None]:
    """Whatever goes wrong within it is the editor's failure, and not that of the whole run."""
    try:
        yield
    except Exception as error:
        raise Failed(error) from error


def by_pool(asks: Sequence[Ask]) -> list[tuple[Pool, list[Ask]]]:
    """What is asked of each pool, in the given order, which has the asks of a pool next to each
    other.
    """
    return [(pool, list(some)) for pool, some in groupby(asks, key=attrgetter("pool"))]


def answer_limit(vlm: VLM, cases: Sequence[Case]) -> int:
    """How many tokens a free answer may take: so many that every target fits, and no fewer than 16."""
    targets = {
        probe.query.target for case in cases for probe in case.probes if probe.wanted == "target"
    }
    ids = vlm.tokenizer(sorted(targets), add_special_tokens=False)["input_ids"] if targets else []
    return max(SHORTEST, *(len(row) + 1 for row in ids), 0)


def _identity(vlm: VLM, editor: Editor, cases: Sequence[Case]) -> dict[str, Any]:
    """What the records of one folder must have in common."""
    return {
        "model": vlm.fingerprint,
        "quantised": vlm.quantised,
        "prompt_format": vlm.prompt_format,
        "method": editor.name,
        "config": asdict(editor.config),
        "editor_fingerprint": editor.fingerprint,
        "cases": digest(cases),
    }


def title(vlm: VLM) -> str:
    """What a reader calls the model: its id or folder."""
    name = str(getattr(vlm.model.config, "name_or_path", ""))
    return "the embedded model" if name and Path(name).is_relative_to(ASSETS) else name


def _call(vlm: VLM) -> dict[str, Any]:
    """Where and with what this process runs."""
    modules = {"liveedit": liveedit, "torch": torch, "transformers": transformers}
    return {
        "command": shlex.join(sys.argv),
        "model": title(vlm),
        "versions": {"python": platform.python_version()}
        | {name: str(m.__version__) for name, m in modules.items()},
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(vlm.device),
        "dtype": str(vlm.dtype),
    }
