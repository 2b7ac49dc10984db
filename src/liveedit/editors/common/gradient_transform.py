"""Base class for editors with networks that transform an edit's gradient (MEND, KE).

A method turns the factors of the gradient Σ_t δ_t u_tᵀ (``gradients.py``) into those of the change
ΔW = Σ_t δ̃_t ũ_tᵀ. For each edit in turn, ΔW is added to the weights; the next gradient is that of
the model edited so far. In training every example of a batch is edited on its own, and ΔW is never
built: a row q of the layer's input gains Σ_t δ̃_t (ũ_t · q).

Shapes: N answer tokens of all rows, V size of the vocabulary.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.branch import AddingBranch, BranchPatch
from liveedit.editors.common.examples import EDIT, Example, RowName, chunks, row_names
from liveedit.editors.common.gradients import (
    ChangePatch,
    Factors,
    Matrix,
    gradient_factors,
    matrices_of,
)
from liveedit.editors.common.losses import forward_kl, nll
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.batch import HiddenBatch
from liveedit.models.module_names import ModuleNames
from liveedit.models.patch import INPUT
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

__all__ = ["GradientEditor"]


class GradientEditor(TrainableEditor[ChangePatch, Example]):
    """An editor of matrices in the feed-forward networks of the last ``config.layers`` layers.

    Raises :class:`BadInput` where no layer is left below these, :class:`UnsupportedModel` where
    they have no matrix of a known name.
    """

    patch_class: ClassVar[type[ChangePatch]] = ChangePatch

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        super().__init__(vlm, config)
        self.below: int = vlm.num_layers - self.config.layers - 1
        if not 0 <= self.below < vlm.num_layers - 1:
            raise BadInput(
                f"{self.name} needs 1 to {vlm.num_layers - 1} of this model's layers: change layers"
            )
        self.matrices = list[Matrix]()
        for layer in range(self.below + 1, vlm.num_layers):
            self.matrices += matrices_of(vlm, layer, self.edited(vlm.module_names))
        if not self.matrices:
            raise UnsupportedModel(
                f"{self.name} needs feed-forward networks with linear layers for every token"
            )
        check_changeable((matrix.name, vlm.parameter(matrix.name)) for matrix in self.matrices)

    @staticmethod
    @abstractmethod
    def edited(names: ModuleNames) -> tuple[str, ...]:
        """The matrices that are edited, by their names in a feed-forward network."""

    @property
    def observed_layer(self) -> int:
        """The layer below the edited ones."""
        return self.below

    @abstractmethod
    def changes(
        self, factors: Mapping[str, Factors], descriptions: Sequence[str]
    ) -> dict[str, Factors]:
        """The factors of ΔW by site, from those of the gradient.

        ``descriptions`` are those that :meth:`describe` gives of the edits.
        """

    def adapt(self, factors: Mapping[str, Factors]) -> None:
        """Update running statistics with a training step's gradients, before :meth:`changes`."""

    def describe(self, queries: Sequence[Query]) -> list[str]:
        """The edits in words, for methods that read them besides the gradient; empty by default."""
        return [""] * len(queries)

    @abstractmethod
    def objective(
        self, terms: dict[str, Tensor], changes: Mapping[str, Factors], right: float
    ) -> Tensor:
        """The scalar to minimise.

        ``terms`` holds the mean likelihood or divergence of each kind of rows; further terms to log
        are added to it. ``right`` is the share of the edits' tokens that the edited models predict.
        """

    # Editing

    @torch.no_grad()
    def edit(self, queries: Sequence[Query], patch: ChangePatch | None = None) -> ChangePatch:
        """See :meth:`Editor.edit`. Each edit starts from the model with the earlier edits."""
        self.validate(queries, patch)
        if patch is None:
            patch = self.patch_class(self, {}, 0)
        for query in queries:
            with self.vlm.patched(patch):
                batch = self.vlm.encode([query], eos=self.config.eos)
                factors = self.gradients(self.vlm.hidden(batch, self.below))
                descriptions = self.describe([query])
            values = self.values(self.changes(factors, descriptions))
            summed = {name: value + patch.values.get(name, 0.0) for name, value in values.items()}
            patch = self.patch_class(self, summed, len(patch) + 1)
        return patch

    def values(self, changes: Mapping[str, Factors]) -> dict[str, Tensor]:
        """The tensors that one edit adds to the values of the patch."""
        return {matrix.name: changes[matrix.site].product()[0] for matrix in self.matrices}

    def gradients(self, hidden: HiddenBatch) -> dict[str, Factors]:
        """By site, the factors of the gradient of each edit, on the networks' device.

        ``hidden`` are the edits' states below the layers that are edited.
        """
        sites = [matrix.site for matrix in self.matrices]
        found = gradient_factors(self.vlm, self.below, sites, hidden)
        return {site: factors.to(self.device) for site, factors in found.items()}

    def load_patch(self, folder: Path) -> ChangePatch:
        """See :meth:`Editor.load_patch`."""
        return self.patch_class.load(self, folder)

    # Training

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`; the examples also get the edits' descriptions."""
        examples = super().prepare(cases)
        descriptions = list[str]()
        for chunk in chunks(cases):
            descriptions += self.describe([case.edits[0] for case in chunk])
        for example, description in zip(examples, descriptions, strict=True):
            example.description = description
        return examples

    def loss(
        self,
        examples: Sequence[Example],
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`. Every example is edited on its own."""
        edits = HiddenBatch.stack([example.rows[EDIT] for example in examples])
        factors = self.gradients(self.on_device(edits))
        self.adapt(factors)
        changes = self.changes(factors, [example.description for example in examples])
        kinds = (EDIT, *self.config.generality, *self.config.locality)
        names = row_names(examples, kinds)
        owners = torch.tensor([j for _, j in names], device=self.device)
        rows = HiddenBatch.stack([examples[j].rows[kind] for kind, j in names])
        hidden = self.on_device(rows)
        branches = []
        for site, change in changes.items():
            branches.append(AddingBranch(site + INPUT, site, change.pick(owners).apply))
        with self.vlm.patched(BranchPatch(*branches)):
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
        """The mean loss of the rows of each kind, and the share of the edits' tokens predicted.

        ``names`` are the rows, those of one kind together; ``logits`` (N, V) predict their answers'
        tokens.
        """
        labels = hidden.answer_tokens().to(logits.device)
        rows = hidden.answer_rows().to(logits.device)
        terms = dict[str, Tensor]()
        right = 0.0
        for kind in dict.fromkeys(kind for kind, _ in names):
            chosen = [index for index, (other, _) in enumerate(names) if other == kind]
            here = (rows >= chosen[0]) & (rows <= chosen[-1])
            edited = logits[here]
            owner = rows[here] - chosen[0]
            if self.must_stay(kind):
                known = [examples[names[index][1]].base[kind] for index in chosen]
                base = torch.cat(known).to(logits.device)
                terms[kind] = forward_kl(edited, base, owner, len(chosen)).mean()
            else:
                terms[kind] = nll(edited, labels[here], owner, len(chosen)).mean()
            if kind == EDIT:
                right = float((edited.argmax(-1) == labels[here]).float().mean())
        return terms, right
