"""What editors that transform an edit's gradient share: its factors, the change made of them, and
their training.

The gradient of a loss L with respect to the matrix W (d_out x d_in) of a linear layer y = W u is a
sum over tokens,

    ∇_W L = Σ_t δ_t u_tᵀ        u_t what the layer takes in at token t, δ_t = ∂L/∂y_t

and a method turns these factors into those of the change ΔW = Σ_t δ̃_t ũ_tᵀ. L is the mean negative
log-likelihood of the target's tokens. While editing ΔW is added to the weights, edit after edit,
each gradient being that of the model as edited so far. In training, where every example of a batch
is edited on its own, ΔW is never made: a row q of the input of the layer gains Σ_t δ̃_t (ũ_t · q).

Shapes: B edits, n tokens of the longest, R rows that are asked about, T tokens of a row.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from liveedit.editors.base import Example, TrainableEditor, alone
from liveedit.editors.common.feed_forward import Recorder, matrices
from liveedit.editors.common.fine_tuning import WeightsPatch
from liveedit.editors.common.losses import forward_kl, nll
from liveedit.editors.liveedit.sampling import EDIT, RowName
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.patch import INPUT, Patch, SiteFn
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

__all__ = ["ChangePatch", "Factors", "GradientEditor", "Matrix"]

CHUNK = 32
"""Queries that go through the VLM together."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that is edited: the parameter's name in the HF model, its layer's site, and (d_out,
    d_in).
    """

    name: str
    site: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Factors:
    """``u`` (B, n, d_in) and ``delta`` (B, n, d_out) of one matrix, in float32. A token without
    gradient is all 0.
    """

    u: Tensor
    delta: Tensor

    def pick(self, rows: Tensor) -> "Factors":
        """Those of the edits ``rows`` (R,)."""
        return Factors(self.u[rows], self.delta[rows])

    def product(self) -> Tensor:
        """Σ_t δ_t u_tᵀ for each edit, (B, d_out, d_in)."""
        return self.delta.mT @ self.u


class ChangePatch(WeightsPatch):
    """``values`` are the changes ΔW, summed over the edits, by the name of the parameter."""

    FILE = "changes.safetensors"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        before = {name: self.editor.vlm.parameter(name) for name in self.changes()}
        return {
            name: before[name] + change.to(before[name].device)
            for name, change in self.changes().items()
        }

    def changes(self) -> dict[str, Tensor]:
        """What is added to each parameter."""
        return self.values


class Zeros(Patch):
    """Adds zeros to what modules put out, whose gradients are those of the outputs. ``added`` holds
    them by site.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites, self.added = sites, dict[str, Tensor]()

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        return {site: self.adder(site) for site in self.sites}

    def adder(self, site: str) -> SiteFn:
        """The function at a site."""

        def add(output: Tensor) -> Tensor:
            self.added[site] = torch.zeros_like(output, requires_grad=True)
            return output + self.added[site]

        return add


class RowChanges(Patch):
    """A change of its own for each row of the batch, by site, as factors (R, n, ·)."""

    def __init__(self, factors: Mapping[str, Factors]) -> None:
        self.factors = factors

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        functions: dict[str, SiteFn] = {}
        for site, factors in self.factors.items():
            functions |= self.pair(site, factors)
        return functions

    @staticmethod
    def pair(site: str, factors: Factors) -> dict[str, SiteFn]:
        """The functions at a layer: ``take`` keeps its input q (R, T, d_in), ``add`` adds Σ_t δ_t
        (u_t · q).
        """
        taken: list[Tensor] = []

        def take(q: Tensor) -> Tensor:
            taken[:] = [q.float()]
            return q

        def add(output: Tensor) -> Tensor:
            u, delta = factors.u.to(output.device), factors.delta.to(output.device)
            return output + (taken.pop() @ u.mT @ delta).to(output.dtype)

        return {site + INPUT: take, site: add}


class GradientEditor(TrainableEditor):
    """An editor of matrices in the feed-forward networks of the last ``config.layers`` layers.

    Raises :class:`BadInput` where no layer is left below these, :class:`UnsupportedModel` where
    they have no matrix of a known name.
    """

    leaves: ClassVar[tuple[str, ...]]
    """The matrices that are edited, by their names in the network."""
    patch_class: ClassVar[type[ChangePatch]] = ChangePatch

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        super().__init__(vlm, config)
        self.below = vlm.num_layers - self.config.layers - 1
        if not 0 <= self.below < vlm.num_layers - 1:
            raise BadInput(
                f"{self.name} needs 1 to {vlm.num_layers - 1} of this model's layers: change layers"
            )
        self.matrices = [
            Matrix(f"{vlm.decoder_path}.{site}.weight", site, (weight.shape[0], weight.shape[1]))
            for layer in range(self.below + 1, vlm.num_layers)
            for site in matrices(vlm, layer, self.leaves)
            for weight in [vlm.parameter(f"{vlm.decoder_path}.{site}.weight")]
        ]
        if not self.matrices:
            raise UnsupportedModel(
                f"{self.name} needs feed-forward networks with linear layers for every token"
            )
        check_changeable((matrix.name, vlm.parameter(matrix.name)) for matrix in self.matrices)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks().parameters()).device

    @abstractmethod
    def changes(self, factors: Mapping[str, Factors], about: Sequence[str]) -> dict[str, Factors]:
        """The factors of ΔW by site, made of those of the gradient. ``about`` is :meth:`describe`
        of the edits.
        """

    def observe(self, factors: Mapping[str, Factors]) -> None:
        """What the method takes in of the gradients of a training step before :meth:`changes`;
        nothing by default.
        """

    def describe(self, queries: Sequence[Query]) -> list[str]:
        """What the method reads about each edit besides its gradient; nothing by default."""
        return [""] * len(queries)

    @abstractmethod
    def objective(
        self, terms: dict[str, Tensor], changes: Mapping[str, Factors], right: float
    ) -> Tensor:
        """The scalar to minimise.

        ``terms`` holds the mean likelihood or divergence of each kind of rows, and gets what else
        is to be logged; ``right`` is the share of the edits' tokens that the edited models predict.
        """

    # Editing

    @torch.no_grad()
    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> ChangePatch:
        """See :meth:`Editor.edit`. Each edit starts from the model that those before it left."""
        self.begin(queries, patch)
        held = self.patch_class(self, {}, 0) if patch is None else patch
        assert isinstance(held, ChangePatch)
        for query in queries:
            with self.vlm.patched(held):
                factors = self.gradients(self._hidden([query]))
                about = self.describe([query])
            values = self.values(self.changes(factors, about))
            values = {name: value + held.values.get(name, 0.0) for name, value in values.items()}
            held = self.patch_class(self, values, len(held) + 1)
        return held

    def values(self, changes: Mapping[str, Factors]) -> dict[str, Tensor]:
        """What one edit adds to the values of the patch."""
        return {matrix.name: changes[matrix.site].product()[0] for matrix in self.matrices}

    @torch.enable_grad()
    def gradients(self, hidden: HiddenBatch) -> dict[str, Factors]:
        """By site, the factors of the gradient of each edit, of which ``hidden`` are the states
        below the matrices.
        """
        positions, sites = hidden.answer_positions(), [matrix.site for matrix in self.matrices]
        record, zeros = Recorder(*(site + INPUT for site in sites)), Zeros(sites)
        with self.vlm.patched(record), self.vlm.patched(zeros):
            logits = self.vlm.resume(self.below, hidden, positions)
        labels, rows = hidden.labels.roll(-1, 1)[positions], positions.nonzero()[:, 0]
        loss = nll(logits, labels.to(logits.device), rows.to(logits.device), len(hidden)).sum()
        deltas = torch.autograd.grad(loss, [zeros.added[site] for site in sites])
        found = {}
        for site, delta in zip(sites, deltas, strict=True):
            delta = delta.float().to(self.device)
            reached = (delta != 0).any(-1, keepdim=True)
            found[site] = Factors(
                record.seen[site + INPUT].detach().float().to(self.device) * reached, delta
            )
        return found

    def load_patch(self, folder: Path) -> ChangePatch:
        """See :meth:`Editor.load_patch`."""
        return self.patch_class.load(self, folder)

    def _hidden(self, queries: Sequence[Query]) -> HiddenBatch:
        return self.vlm.hidden(self.vlm.encode(queries, eos=self.config.eos), self.below)

    # Training

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`. Of several probes of a metric the first counts."""
        self.begin([], None)
        examples = [Example() for _ in cases]
        asked = [
            (index, *row) for index, case in enumerate(cases) for row in self._rows(case).items()
        ]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            rows = [alone(row) for row in self._hidden([query for *_, query in chunk]).rows()]
            for (index, kind, _), row in zip(chunk, rows, strict=True):
                examples[index].rows[kind] = row
            still = [
                (examples[index], kind) for index, kind, _ in chunk if kind in self.config.locality
            ]
            bases = self._base([example.rows[kind] for example, kind in still])
            for (example, kind), base in zip(still, bases, strict=True):
                example.base[kind] = base
        edits = [case.edits[0] for case in cases]
        for start in range(0, len(cases), CHUNK):
            texts = self.describe(edits[start : start + CHUNK])
            for example, text in zip(examples[start : start + CHUNK], texts, strict=True):
                example.about = text
        return examples

    def _rows(self, case: Case) -> dict[str, Query]:
        """The queries of a case that training reads, by kind."""
        if len(case.edits) != 1:
            raise BadInput(f"case {case.id} is not one edit: {self.name} cannot be trained on it")
        self.check(case.edits[0])
        kinds = (*self.config.generality, *self.config.locality)
        asked = {
            probe.metric: probe.query for probe in reversed(case.probes) if probe.metric in kinds
        }
        return {EDIT: case.edits[0]} | asked

    def _base(self, rows: list[HiddenBatch]) -> list[Tensor]:
        """The unedited log-probabilities (n, V) at the n answer positions of each row."""
        if not rows:
            return []
        hidden = self.onto(HiddenBatch.stack(rows))
        positions = hidden.answer_positions()
        base = self.vlm.resume(self.below, hidden, positions).float().log_softmax(-1).cpu()
        return [part.clone() for part in base.split_with_sizes(positions.sum(1).tolist())]

    def onto(self, hidden: HiddenBatch) -> HiddenBatch:
        """``hidden`` where the networks are, in the VLM's type."""
        hidden = hidden.to(self.device)
        hidden.hidden = hidden.hidden.to(self.vlm.dtype)
        return hidden

    def loss(
        self,
        examples: Sequence[Example],
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`. Every example is edited on its own, from the unedited
        model.
        """
        edits = self.onto(HiddenBatch.stack([example.rows[EDIT] for example in examples]))
        factors = self.gradients(edits)
        self.observe(factors)
        changes = self.changes(factors, [example.about for example in examples])
        kinds = (EDIT, *self.config.generality, *self.config.locality)
        names = [
            (kind, j)
            for kind in kinds
            for j, example in enumerate(examples)
            if kind in example.rows
        ]
        owners = torch.tensor([j for _, j in names], device=self.device)
        hidden = self.onto(HiddenBatch.stack([examples[j].rows[kind] for kind, j in names]))
        with self.vlm.patched(
            RowChanges({site: made.pick(owners) for site, made in changes.items()})
        ):
            logits = self.vlm.resume(self.below, hidden, hidden.answer_positions())
        terms, right = self._terms(examples, names, hidden, logits)
        return self.objective(terms, changes, right), terms

    def _terms(
        self,
        examples: Sequence[Example],
        names: Sequence[RowName],
        hidden: HiddenBatch,
        logits: Tensor,
    ) -> tuple[dict[str, Tensor], float]:
        """The mean over the rows of each kind, and the share of the edits' tokens that are
        predicted.

        ``names`` are the rows, those of a kind together; ``logits`` (N, V) predict their answers'
        tokens.
        """
        positions = hidden.answer_positions()
        labels = hidden.labels.roll(-1, 1)[positions].to(logits.device)
        rows = positions.nonzero()[:, 0].to(logits.device)
        terms, right = dict[str, Tensor](), 0.0
        for kind in dict.fromkeys(kind for kind, _ in names):
            chosen = [index for index, (other, _) in enumerate(names) if other == kind]
            here = (rows >= chosen[0]) & (rows <= chosen[-1])
            edited, owner = logits[here], rows[here] - chosen[0]
            if kind in self.config.locality:
                base = torch.cat([examples[names[index][1]].base[kind] for index in chosen]).to(
                    logits.device
                )
                terms[kind] = forward_kl(edited, base, owner, len(chosen)).mean()
            else:
                terms[kind] = nll(edited, labels[here], owner, len(chosen)).mean()
            if kind == EDIT:
                right = float((edited.argmax(-1) == labels[here]).float().mean())
        return terms, right
