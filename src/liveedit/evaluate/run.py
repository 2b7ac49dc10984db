"""A whole evaluation of editors: one record per probe, resumable at any moment.

Under ``accelerate launch`` or ``torchrun`` the requests are divided among the processes; each makes
the edits that its requests need.
"""

import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from liveedit.artifacts import locked
from liveedit.data.images import check_readable
from liveedit.editors.base import Editor
from liveedit.errors import BadInput
from liveedit.evaluate.journal import Journal, note_failure
from liveedit.evaluate.origin import circumstances_of, origin_of
from liveedit.evaluate.peak_memory import PeakMemory
from liveedit.evaluate.plan import Request, plan
from liveedit.evaluate.probing import After, Before, Prober
from liveedit.evaluate.progress import Clock, Progress, Watcher
from liveedit.measures.costs import Usage, costs_of
from liveedit.measures.protocols import EditSequence, Protocol
from liveedit.measures.scores import scores_of
from liveedit.models.input_checks import check_cases
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import asked_image_name
from liveedit.settings import check_seed
from liveedit.types import Case, Firing, Query, Record, expanded

__all__ = ["Evaluation", "answer_limit", "evaluate", "processes"]

FIRED = 5
"""Number of experts that a record lists, those with the largest weights."""
TIMED = 10
"""Cases at each number of edits whose answers are timed; those of the others are mostly known
without generating them.
"""
SHORTEST = 16
"""Smallest limit of the tokens of a greedy generation; longer targets raise it."""
PATIENCE = timedelta(days=7)
"""Time that a process that has finished its share waits for the others."""


def processes() -> PartialState:
    """The processes of this run: those of ``accelerate launch`` or ``torchrun``, or this one."""
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
    """Run an :class:`Evaluation` of one editor; return the file of its records, in ``out``.

    Raises as that class does, and whatever the editor raises.
    """
    evaluation = Evaluation(vlm, cases, protocol, data=data, seed=seed, batch_size=batch_size)
    evaluation.add(editor, out, label)
    [path] = evaluation.run(watcher)
    for error in evaluation.errors.values():
        raise error
    return path


class Evaluation:
    """The evaluation of any number of editors on one model and benchmark.

    The unedited model is probed once for all editors. If an editor fails, the failure is noted in a
    file and the next editor follows; :attr:`errors` holds the failures by label. Raises
    :class:`BadInput` where there are too few cases for the protocol, and for a seed beyond 32 bits.

    Arguments:
        vlm: The unedited model.
        cases: The cases, in the order in which they are edited.
        protocol: The protocol.
        data: Name of the benchmark in the records.
        seed: Seed with which the cases were ordered; it is only recorded.
        batch_size: Largest number of probes that go through the model together.
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
        self.vlm = vlm
        self.cases = cases
        self.protocol = protocol
        self.data = data
        self.seed = seed
        self.requests = plan(cases, protocol)
        self.prober = Prober(vlm, answer_limit(vlm, cases), batch_size)
        self.processes = processes()
        self.clock = Clock()
        self.done = 0
        self.total = 0
        self.errors: dict[str, Exception] = {}
        self._runs: list[_EditorRun] = []

    def add(self, editor: Editor, out: Path, label: str = "") -> None:
        """Add an editor. Its records are in the folder ``out``, under ``label`` or its own name.

        Probes on record in ``out`` are not evaluated again. Raises :class:`Mismatch` if ``out``
        belongs to another model, editor, benchmark or seed, :class:`BadInput` if its files are
        damaged or unrelated, and for a label that cannot be a part of a file's name,
        :class:`StorageError` where writing fails and while another process writes there.
        """
        label = label or editor.name
        if Path(label).name != label or not label.isprintable():
            raise BadInput(
                f"no editor can be called {label!r}, which would be a part of a file's name: "
                "choose another label"
            )
        origin = {
            **origin_of(self.vlm, editor, self.cases),
            "editor": label,
            "data": self.data,
            "seed": self.seed,
            "max_new_tokens": self.prober.max_new_tokens,
        }
        call = {
            **circumstances_of(self.vlm),
            "protocol": self.protocol.name,
            **asdict(self.protocol),
            "batch_size": self.prober.batch_size,
            "processes": self.processes.num_processes,
        }
        folder = expanded(out)
        with self.processes.main_process_first(), self._locked(folder):
            journal = Journal(folder, origin, call, self.cases, self.processes.process_index)
        self._runs.append(_EditorRun(self, editor, label, journal))

    def run(self, watcher: Watcher | None = None) -> list[Path]:
        """Evaluate the editors one after another; return the files of their records.

        Failures of editors in this process are put into :attr:`errors`. Raises :class:`BadInput`
        for an image or a text that cannot be encoded, before anything is evaluated, and
        :class:`StorageError` where writing fails and while another process writes to one of the
        folders; the records written so far stay.
        """
        with ExitStack() as locks:
            for run in self._runs:
                locks.enter_context(self._locked(run.journal.folder))
            self._run_editors(watcher)
        return [run.journal.path for run in self._runs]

    def _locked(self, folder: Path) -> AbstractContextManager[None]:
        """Context in which no other run writes to ``folder``, which the first process locks."""
        return locked(folder, patience=0) if self.processes.is_main_process else nullcontext()

    def _run_editors(self, watcher: Watcher | None) -> None:
        """Evaluate the editors, in locked folders."""
        self.processes.wait_for_everyone()  # every process has read the records of earlier calls
        self._share()
        check_readable(self._images())
        check_cases(self.vlm, self._cases())
        for run in self._runs:
            run.run(watcher)
        self.processes.wait_for_everyone()
        if self.processes.is_main_process:
            for run in self._runs:
                run.journal.merge()

    def _images(self) -> Iterator[Any]:
        """The images that this process edits or probes."""
        for run in self._runs:
            for request in run.requests:
                yield from request.images

    def _cases(self) -> list[Case]:
        """The cases that this process edits or probes, each once."""
        counts: dict[EditSequence, int] = {}
        for run in self._runs:
            for request in run.requests:
                needed = max(request.point.cases_edited, request.index + 1)
                counts[request.sequence] = max(counts.get(request.sequence, 0), needed)
        found: dict[str, Case] = {}
        for sequence, count in counts.items():
            found |= {case.id: case for case in sequence.cases[:count]}
        return list(found.values())

    def _share(self) -> None:
        """Divide the missing requests among the processes, and count the probes.

        The missing requests, editor after editor, are cut into as many pieces as there are
        processes, so that few sequences are edited twice. ``done`` are the probes that the records
        of all processes hold already; ``total`` adds those of this process.
        """
        unfinished = list(self._unfinished())
        with self.processes.split_between_processes(unfinished) as share:
            for run, request in share:
                run.requests.append(request)
        probes = sum(len(request.case.probes) for request in self.requests) * len(self._runs)
        self.done = probes - sum(len(run.missing(request)) for run, request in unfinished)
        self.total = self.done + sum(len(run.missing(request)) for run, request in share)
        unknown = {request.case.id for _, request in share if not self.prober.knows(request.case)}
        self.clock.left["unedited", ""] = len(unknown)
        for run in self._runs:
            self.clock.left["probe", run.label] = len(run.requests)
            self.clock.left["edit", run.label] = sum(
                sequence.edits_after[requests[-1].point.cases_edited]
                for sequence, requests in _by_sequence(run.requests)
            )

    def _unfinished(self) -> "Iterator[tuple[_EditorRun, Request]]":
        """The requests of each editor that have probes without a record."""
        for run in self._runs:
            for request in self.requests:
                if run.missing(request):
                    yield run, request


class _EditorRun:
    """The evaluation of one editor; ``requests`` are those of this process without records."""

    def __init__(
        self, evaluation: Evaluation, editor: Editor, label: str, journal: Journal
    ) -> None:
        self.evaluation = evaluation
        self.editor = editor
        self.label = label
        self.journal = journal
        self.prober = evaluation.prober
        self.clock = evaluation.clock
        self.requests: list[Request] = []
        self._timed: Counter[int] = Counter()

    def missing(self, request: Request) -> list[int]:
        """Indices of the probes of a case that are not on record."""
        point = request.point
        shared = self.evaluation.protocol.name, point.edits, point.window, request.case.id
        probes = range(len(request.case.probes))
        return [probe for probe in probes if (*shared, probe) not in self.journal.done]

    def run(self, watcher: Watcher | None) -> None:
        """Evaluate the requests, sequence by sequence, until the editor fails."""
        self.watcher = watcher
        try:
            for sequence, requests in _by_sequence(self.requests):
                self._probe_unedited(requests)
                self._run_sequence(sequence, requests)
        except _EditorError as failed:
            error = failed.error
            self.evaluation.errors[self.label] = error
            self.clock.drop(self.label)
            line = note_failure(self.journal.folder, self.label, self.stage, error)
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            self._report("failed", line)
        else:
            if self.requests:
                self._report("done")

    def _probe_unedited(self, requests: Iterable[Request]) -> None:
        """Probe the unedited model first, so that what is kept of it does not count as a cost."""
        for request in requests:
            if not self.prober.knows(request.case):
                self._report("unedited model")
                with self.clock.measuring("unedited", "", 1):
                    self.prober.before(request.case)

    def _run_sequence(self, sequence: EditSequence, requests: Sequence[Request]) -> None:
        """Edit a sequence up to the last request, and evaluate the requests on the way."""
        patch: Patch | None = None
        seconds = 0.0
        memory = PeakMemory(self.prober.vlm.device)
        for start, stop in sequence.steps:
            if start >= requests[-1].point.cases_edited:
                break
            edits = sequence.edits_after
            self._report(f"editing {edits[stop]:,} of {edits[-1]:,}")
            began = time.perf_counter()
            patch = self._edit(sequence.edits_between(start, stop), patch)
            seconds += time.perf_counter() - began
            for request in requests:
                if request.point.cases_edited == stop:
                    self._probe_edited(request, patch, seconds, memory)

    def _edit(self, queries: Sequence[Query], patch: Patch | None) -> Patch:
        """The patch with these edits added."""
        with self.clock.measuring("edit", self.label, len(queries)), _editor_errors():
            edited: Patch = self.editor.edit(queries, patch)
            if self.prober.vlm.device.type == "cuda":
                torch.cuda.synchronize()
        return edited

    def _probe_edited(
        self, request: Request, patch: Patch, edit_seconds: float, memory: PeakMemory
    ) -> None:
        """Write the missing records of a case."""
        point = request.point
        self._report(f"probing after {point.edits:,} edits, window {point.window + 1}")
        missing = self.missing(request)
        kept = self.prober.lower_bytes
        timed = self._timed[point.edits] < TIMED
        self._timed[point.edits] += timed
        with self.clock.measuring("probe", self.label, 1), _editor_errors():
            responses = self.prober.probe(request.case, patch, timed)
        memory.leave_out(self.prober.lower_bytes - kept)
        used = Usage(
            edits=request.sequence.edits_after[point.cases_edited],
            edit_seconds=edit_seconds,
            patch_bytes=getattr(patch, "nbytes", 0),
            patch_edits=len(patch),
            query_seconds=None,  # each probe has its own, see _record
            peak_bytes=memory.rise(),
        )
        records = [self._record(request, probe, *responses[probe], used) for probe in missing]
        self.journal.append(records)
        self.evaluation.done += len(missing)

    def _record(
        self, request: Request, number: int, before: Before, after: After, used: Usage
    ) -> Record:
        """The record of a probe; ``used`` are the costs that all probes of the case share."""
        probe = request.case.probes[number]
        heaviest = sorted(after.fired, key=lambda pair: -pair[1])[:FIRED]
        record = Record(
            editor=self.label,
            data=self.evaluation.data,
            edits=request.point.edits,
            window=request.point.window,
            seed=self.evaluation.seed,
            case=request.case.id,
            probe=number,
            metric=probe.metric,
            wanted=probe.wanted,
            prompt=probe.query.prompt,
            target=probe.query.target,
            image=asked_image_name(probe.query),
            note=probe.note,
            answer_before=before.answer,
            answer_after=after.answer,
            tokens_wanted=before.wanted,
            tokens_after=after.tokens,
            fired=tuple(
                Firing(expert, weight, expert in request.own) for expert, weight in heaviest
            ),
            experts_fired=len(after.fired),
            protocol=self.evaluation.protocol.name,
            later=request.later,
            scores=after.scores,
            costs=costs_of(replace(used, query_seconds=after.seconds)),
            aliases=probe.aliases,
        )
        return replace(record, scores=scores_of(record))

    def _report(self, stage: str, failure: str = "") -> None:
        """Report the current stage to the watcher."""
        self.stage = stage
        if self.watcher is None:
            return
        progress = Progress(
            editor=self.label,
            stage=stage,
            done=self.evaluation.done,
            total=self.evaluation.total,
            seconds_left=self.clock.seconds_left(),
            failure=failure,
        )
        self.watcher(progress)


class _EditorError(Exception):
    """Wraps the error with which an editor failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _editor_errors() -> Iterator[None]:
    """Context in which any error is a failure of the editor, not of the whole run."""
    try:
        yield
    except Exception as error:
        raise _EditorError(error) from error


def _by_sequence(requests: Sequence[Request]) -> list[tuple[EditSequence, list[Request]]]:
    """The requests grouped by edit sequence, in their order."""
    return [
        (sequence, list(group)) for sequence, group in groupby(requests, key=attrgetter("sequence"))
    ]


def answer_limit(vlm: VLM, cases: Sequence[Case]) -> int:
    """Largest number of tokens of a greedy generation, such that every target fits."""
    targets = set[str]()
    for case in cases:
        targets |= {probe.query.target for probe in case.probes if probe.wanted == "target"}
    if not targets:
        return SHORTEST
    ids = vlm.tokenizer(sorted(targets), add_special_tokens=False)["input_ids"]
    return max(SHORTEST, *(len(row) + 1 for row in ids))
