"""Edits: reads the store, gives each new request the patch of that moment, and applies patches.

A request keeps its patch until it ends, also where it is preempted and computed again. Prompts that
a step begins with are read together; afterwards each request has functions of its own, and those of
experts are joined, so that one product adds the residuals of all rows.

Shapes: N tokens of a step, B prompts of T tokens, R rows that go on, D width.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from liveedit.editors.liveedit.experts import ExpertBranch, ExpertPatch, JoinedBranch
from liveedit.errors import UnsupportedModel
from liveedit.integrations.vllm.reports import Reports
from liveedit.integrations.vllm.requests import Request, Tokens, tokens_of_step
from liveedit.integrations.vllm.served import Served
from liveedit.integrations.vllm.sites import hook
from liveedit.models.patch import Patch, SiteFn, acts_at_modules
from liveedit.store.durable import State
from liveedit.store.store import Hit, now

__all__ = ["Edits", "check_patch"]

LOG = logging.getLogger("vllm.liveedit")


def check_patch(kind: type[Patch]) -> None:
    """Raise :class:`UnsupportedModel` for patches that act elsewhere than at a module."""
    if not acts_at_modules(kind):
        raise UnsupportedModel(
            f"{kind.__name__} acts elsewhere than at a layer, which vLLM cannot do: serve these "
            "edits with `liveedit serve`, or make them by liveedit, pinpoint or direct"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Rows on which functions act together in a step.

    Arguments:
        functions: The functions by site.
        index: The places of their tokens among the step's, (R, T).
        real: Which of these are no padding, by their numbers among the R · T, (n,).
        places: The places of the real ones, (n,).
        span: Where all of them are real and follow each other: their places.
    """

    functions: dict[str, SiteFn]
    index: Tensor
    real: Tensor
    places: Tensor
    span: slice | None

    @classmethod
    def of(
        cls, functions: dict[str, SiteFn], index: Tensor, real: Tensor, device: torch.device
    ) -> "Part":
        """A part whose tokens are at ``index`` (R, T), some of them ``real``; both on the CPU."""
        numbers = real.flatten().nonzero()[:, 0]
        places = index.flatten()[numbers]
        first = int(places[0])
        follow = torch.equal(index.flatten(), torch.arange(first, first + index.numel()))
        span = slice(first, first + index.numel()) if follow else None
        return cls(functions, index.to(device), numbers.to(device), places.to(device), span)

    def taken(self, states: Tensor) -> Tensor:
        """The states (R, T, D) of its tokens, of those of the step (N, D)."""
        if self.span is not None:
            return states[self.span].view(*self.index.shape, -1)
        return states[self.index]

    def put(self, states: Tensor, changed: Tensor) -> None:
        """Put the changed states (R, T, D) of its tokens among those of the step."""
        if self.span is not None:
            states[self.span] = changed.flatten(0, 1)
        else:
            states[self.places] = changed.flatten(0, 1)[self.real]

    def clear(self, states: Tensor) -> None:
        """Make the states of its tokens zero."""
        states[self.places if self.span is None else self.span] = 0


class Step:
    """One step of the engine: the tokens that it computes, and what acts on them."""

    def __init__(self, edits: "Edits", counts: dict[str, int]) -> None:
        self.edits = edits
        self.counts = counts

    @cached_property
    def parts(self) -> list[Part]:
        """The rows on which edits act; known once the runner has put its batch in order."""
        ids = tuple(self.edits.runner.input_batch.req_ids)
        single = sum(self.counts.values()) == len(ids)
        if single and self.edits.lasting is not None and self.edits.lasting[0] == ids:
            return self.edits.lasting[1]
        parts = self.found()
        lasts = single and all(isinstance(each, JoinedBranch) for each in _owners(parts))
        self.edits.lasting = (ids, parts) if lasts else None
        return parts

    def found(self) -> list[Part]:
        """The parts of these tokens."""
        tokens = tokens_of_step(self.edits.runner, self.edits.requests, self.counts)
        acting = [each for each in tokens if each.request.functions]
        new: dict[int, list[Tokens]] = {}
        for each in acting:
            if each.before == 0:  # new, or computed again after it had to make room
                together = each.request.reading or each.request
                new.setdefault(id(together), []).append(each)
        going_on = [each for each in acting if each.before > 0]
        return [*map(self.whole, new.values()), *self.further(going_on)]

    def whole(self, rows: Sequence[Tokens]) -> Part:
        """Rows that are read from their beginning, in the order of their batch."""
        rows = sorted(rows, key=lambda each: each.request.row)
        longest = max(each.count for each in rows)
        columns = torch.arange(longest)
        at = torch.tensor([each.at for each in rows])[:, None]
        counts = torch.tensor([each.count for each in rows])[:, None]
        index = at + columns.minimum(counts - 1)
        return self.part(rows[0].request.functions, 0, index, columns < counts)

    def further(self, rows: Sequence[Tokens]) -> list[Part]:
        """Rows of which the next tokens are computed, a part for those that can be joined."""
        joined, others = self.edits.joined([each.request for each in rows])
        places = {each.request.id: each for each in rows}
        found = []
        for functions, requests in [*joined, *others]:
            its = [places[request.id] for request in requests]
            index = torch.tensor([range(each.at, each.at + each.count) for each in its])
            before = max(each.before for each in its)
            found.append(self.part(functions, before, index, torch.ones_like(index).bool()))
        return found

    def part(self, functions: dict[str, SiteFn], before: int, index: Tensor, real: Tensor) -> Part:
        """A part whose functions go on after ``before`` tokens."""
        for owner in owners(functions):
            owner.rewind(before)
        return Part.of(functions, index, real, self.edits.vlm.device)


def _owners(parts: Sequence[Part]) -> list[Any]:
    """The objects whose methods the functions of parts are."""
    found = []
    for part in parts:
        found += owners(part.functions)
    return found


def owners(functions: dict[str, SiteFn]) -> list[Any]:
    """The objects whose methods the functions are, each once."""
    found = {id(function.__self__): function.__self__ for function in functions.values()}  # type: ignore[attr-defined]
    return list(found.values())


class Edits:
    """The edits of a worker's model.

    Arguments:
        runner: vLLM's model runner.
        vlm: The model as editors see it.
        state: Gives the store's state, the same on all workers; ``None`` while it holds no edits.
        record: Takes the edits that fired.
    """

    def __init__(
        self,
        runner: Any,
        vlm: Any,
        state: Callable[[], State | None],
        record: Callable[[list[Hit]], None],
    ) -> None:
        self.runner = runner
        self.vlm: Served = vlm
        self.state = state
        self.record = record
        self.requests: dict[str, Request] = {}
        self.reading: list[Request] = []
        """Those whose prompts are read in this step."""
        self.step: Step | None = None
        self.reports = Reports()
        self.hooked: set[str] = set()
        self.compiled = False
        """Whether the model is compiled from now on, with the sites that are hooked."""
        self.lasting: tuple[tuple[str, ...], list[Part]] | None = None
        """The parts of the last step, which are the same while these requests get one token each.
        """
        self._joined: tuple[tuple[str, ...], tuple[list[Any], list[Any]]] = ((), ([], []))

    # Steps

    def begin(self, scheduled: Any) -> None:
        """Before a step: take over the requests that the scheduler has begun and ended."""
        for id in scheduled.finished_req_ids:
            self.requests.pop(id, None)
        new = [Request.of(each) for each in scheduled.scheduled_new_reqs]
        self.requests |= {request.id: request for request in new}
        for request in new:
            if not request.edited:
                self.reports.add(request.name, "base")
        edited = [request for request in new if request.edited]
        if edited:
            self.bind(edited)
        self.step = Step(self, scheduled.num_scheduled_tokens)

    def end(self) -> None:
        """After a step: requests whose prompts were read go on by themselves."""
        self.step = None
        for request in self.reading:
            self.settle(request)
        self.reading = []

    def bind(self, requests: Sequence[Request]) -> None:
        """Give new requests the patch of now."""
        state = self.state()
        for request in requests:
            self.reports.add(request.name, _named(state))
        if state is None or not len(state.pool.patch):
            return
        patch = state.pool.patch
        for group in _together(patch, requests):
            batch = self.vlm.prompts(group)
            functions = patch.bind(batch)
            self.hook(functions)
            for row, request in enumerate(group):
                request.read(state, batch, row, functions)
                self.reading.append(request)

    def settle(self, request: Request) -> None:
        """Note what fired on a request; without that, nothing acts on it any more."""
        state, batch = request.state, request.reading
        assert state is not None
        assert batch is not None
        patch = state.pool.patch
        fired = batch.fired_by(patch)[request.row]
        rows = [(state.row(int(state.held[at])), weight) for at, weight in fired]
        if patch in batch.fired and not fired:
            request.functions = {}
        elif len(batch) > 1:
            [branch] = owners(request.functions)
            request.functions = branch.of_row(request.row).sites()
        request.reading = None
        request.row = 0
        time = now()
        self.record([Hit(row.number, weight, time, request.name) for row, weight in rows])
        self.reports.add(request.name, _named(state), rows)

    def joined(self, requests: Sequence[Request]) -> tuple[list[Any], list[Any]]:
        """Functions for several requests at once where possible, and those of each other."""
        key = tuple(request.id for request in requests)
        if self._joined[0] != key:
            self._joined = key, self._join(requests)
        return self._joined[1]

    def _join(self, requests: Sequence[Request]) -> tuple[list[Any], list[Any]]:
        experts: dict[int, list[Request]] = {}
        others = []
        for request in requests:
            owner, *more = owners(request.functions)
            if more or not isinstance(owner, ExpertBranch):
                others.append((request.functions, [request]))
            else:
                experts.setdefault(id(owner.patch.editor), []).append(request)
        found = []
        for group in experts.values():
            branches = [owners(request.functions)[0] for request in group]
            joined = ExpertBranch.joined(branches)
            if joined is None:
                others += [(request.functions, [request]) for request in group]
            else:
                found.append((joined.sites(), group))
        return found, others

    # Sites

    def hook_known(self) -> None:
        """Let the store's edits act at their sites, before the model is compiled."""
        state = self.state()
        if state is not None and len(state.pool.patch):
            shown = Request("", [self.vlm.image_token_id, self.vlm.pad_token_id], edited=True)
            self.hook(state.pool.patch.bind(self.vlm.prompts([shown])))
        self.compiled = not self.runner.model_config.enforce_eager

    def hook(self, functions: dict[str, SiteFn]) -> None:
        """Let edits act at the sites of these functions."""
        for site in functions.keys() - self.hooked:
            if self.compiled:
                LOG.error("edits at %s act once the server is started again: it is compiled", site)
            hook(self.vlm.vllm_decoder, site, self)
            self.hooked.add(site)

    @torch.inference_mode()
    def act(self, site: str, hidden: Tensor, residual: Tensor | None) -> None:
        """Change the states at a site, ``hidden`` + ``residual`` (N, D), in place."""
        if self.step is None:
            return  # a run that only warms up
        for part in self.step.parts:
            function = part.functions.get(site)
            if function is not None:
                _act(function, part, hidden, residual)


def _named(state: State | None) -> str:
    """The ``system_fingerprint`` of answers in a state of the store."""
    return f"edits-{state.version if state else 0}"


def _together(patch: Patch, requests: Sequence[Request]) -> list[Sequence[Request]]:
    """Requests in groups that are read together; the questions of chats are read alone."""
    if not isinstance(patch, ExpertPatch):
        return [[request] for request in requests]
    chats = [request for request in requests if request.question]
    others = [request for request in requests if not request.question]
    return list(filter(None, (others, chats)))


def _act(function: SiteFn, part: Part, hidden: Tensor, residual: Tensor | None) -> None:
    """Apply a function to the states of a part's rows; their sum goes into ``hidden``."""
    states = part.taken(hidden)
    if residual is not None:
        states = states + part.taken(residual)
    changed = function(states)
    if changed is states:
        return
    part.put(hidden, changed)
    if residual is not None:
        part.clear(residual)
