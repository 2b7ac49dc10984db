"""Branch: acts beside one module of the text decoder, and decides once per prompt what to do.

LiveEdit, LEMoE, T-Patcher, WISE, GRACE, HoReN and SERAC are branches with a router. A branch reads
the input of a module at one site and changes the output at another (or at the same one), for the
tokens of the prompt first and then for each generated token:

    prompt        read(x) → route(x)    write(y) → change(x, y)
    every token   read(x)               write(y) → change(x, y)

Routing depends on the prompt alone. Its result is kept in :attr:`Branch.routing` and is reordered
with the rows of a beam search.

Shapes: B rows, T' tokens of this call (all of them for the prompt, later often one), D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from liveedit.models.batch import Batch
from liveedit.models.patch import Patch, SiteFn

__all__ = ["AddingBranch", "Branch", "BranchPatch", "Recorder", "Route"]

Route = tuple[Tensor, ...]
"""The decision of a router: tensors whose first axis is that of the rows, (B, …)."""
R = TypeVar("R", bound=Route)


class Branch(ABC, Generic[R]):
    """Acts at the sites ``reads`` and ``writes`` for one batch."""

    def __init__(self, reads: str, writes: str) -> None:
        self.reads = reads
        self.writes = writes
        self.input = torch.empty(0)
        """The newest tokens at ``reads``, (B, T', ·), in the model's dtype."""
        self.routing: R | None = None
        self.start = 0
        """How many tokens of each row come before those of the current call."""

    def sites(self) -> dict[str, SiteFn]:
        """The functions that :meth:`Patch.bind` returns for this branch."""
        if self.reads == self.writes:
            return {self.writes: self.read_and_write}
        return {self.reads: self.read, self.writes: self.write}

    def read(self, x: Tensor) -> Tensor:
        """Keep ``x`` (B, T', ·), the state at ``reads``; for a prompt, route. Return ``x``."""
        self.input = x
        if self.routing is None:
            self.routing = self.route(x)
        return x

    def write(self, output: Tensor) -> Tensor:
        """The state at ``writes`` (B, T', D) with this branch's change."""
        if self.routing is None:
            return output
        return self.change(self.input, output, self.routing)

    def read_and_write(self, output: Tensor) -> Tensor:
        """Read and write in one call, for a branch that reads the output that it changes."""
        if self.routing is None:
            self.routing = self.route(output)
        return self.change(output, output, self.routing)

    @abstractmethod
    def route(self, x: Tensor) -> R:
        """Decide for the prompts ``x`` (B, T, ·) what to do with each row."""

    @abstractmethod
    def change(self, x: Tensor, output: Tensor, routing: R) -> Tensor:
        """``output`` (B, T', D) as this branch changes it, given its input ``x`` (B, T', ·).

        Returns the same object if nothing changes, so that the model's result stays bit-equal.
        """

    def rewind(self, length: int) -> None:
        """Continue after the first ``length`` tokens of the rows."""
        self.start = length

    def reorder(self, rows: Tensor) -> None:
        """Continue with reordered rows: row i continues the former row ``rows[i]``.

        ``models/answers.py`` calls it when the rows of the cache change, as beams change them;
        :attr:`input` is read anew by every call.
        """
        if self.routing is not None:
            self.routing = self.picked(self.routing, rows)

    def picked(self, routing: R, rows: Tensor) -> R:
        """The routing of ``rows`` (B',), in that order."""
        make = getattr(type(routing), "_make", type(routing))  # that of a NamedTuple takes a list
        picked: R = make([part[rows.to(part.device)] for part in routing])
        return picked


class AddingBranch(Branch[Route]):
    """Adds ``function(x)`` (B, T', D) to a module's output, for every row.

    x is the module's input, in float32.
    """

    def __init__(self, reads: str, writes: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(reads, writes)
        self.function = function

    def route(self, x: Tensor) -> Route:  # noqa: ARG002
        """Nothing to decide."""
        return ()

    def change(self, x: Tensor, output: Tensor, routing: Route) -> Tensor:  # noqa: ARG002
        """See :meth:`Branch.change`."""
        return output + self.function(x.float()).to(output.dtype)


class BranchPatch(Patch):
    """A patch of given branches, each applied to every batch: for values that are being trained."""

    def __init__(self, *branches: Branch[Route]) -> None:
        self.branches = branches

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        functions = dict[str, SiteFn]()
        for branch in self.branches:
            functions |= branch.sites()
        return functions


class Recorder(Patch):
    """Keeps the states (B, T, D) at some sites in ``seen``, and changes nothing."""

    def __init__(self, *sites: str) -> None:
        self.sites = sites
        self.seen = dict[str, Tensor]()

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        return {site: partial(self.keep, site) for site in self.sites}

    def keep(self, site: str, output: Tensor) -> Tensor:
        """Keep and return the state at a site."""
        self.seen[site] = output
        return output
