"""The gradient of an edit's loss in factors, and patches that add changes to matrices.

The gradient of a loss L with respect to the matrix W (d_out × d_in) of a linear layer y = W u is a
sum over tokens,

    ∇_W L = Σ_t δ_t u_tᵀ        u_t the layer's input at token t, δ_t = ∂L/∂y_t

L is the mean negative log-likelihood of the target's tokens. No gradient of the size of W is built.

Shapes: B edits, n tokens of the longest, R rows that are evaluated, T tokens of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from liveedit.editors.common.branch import Recorder
from liveedit.editors.common.fine_tuning import WeightsPatch
from liveedit.editors.common.losses import nll
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.feed_forward import matrices
from liveedit.models.patch import INPUT, Patch, SiteFn
from liveedit.models.vlm import VLM

__all__ = ["ChangePatch", "Factors", "Matrix", "gradient_factors", "matrices_of"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that is edited.

    Arguments:
        name: The parameter's name in the Hugging Face model.
        site: The linear layer's path below the text decoder.
        shape: (d_out, d_in).
    """

    name: str
    site: str
    shape: tuple[int, int]


def matrices_of(vlm: VLM, layer: int, names: Sequence[str]) -> list[Matrix]:
    """The matrices, called one of ``names``, of the feed-forward network of ``layer``, from 0."""
    found = list[Matrix]()
    for site in matrices(vlm, layer, names):
        name = f"{vlm.decoder_path}.{site}.weight"
        high, wide = vlm.parameter(name).shape
        found.append(Matrix(name, site, (high, wide)))
    return found


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one matrix's gradient or change, in float32.

    Arguments:
        u: Inputs of the layer, (B, n, d_in).
        delta: Gradients of its outputs, (B, n, d_out); all 0 for a token without gradient, as is
            ``u``.
    """

    u: Tensor
    delta: Tensor

    def pick(self, rows: Tensor) -> "Factors":
        """The factors of the edits ``rows`` (R,)."""
        return Factors(self.u[rows], self.delta[rows])

    def to(self, device: torch.device) -> "Factors":
        """The same values on ``device``."""
        return Factors(self.u.to(device), self.delta.to(device))

    def product(self) -> Tensor:
        """Σ_t δ_t u_tᵀ for each edit, (B, d_out, d_in)."""
        return self.delta.mT @ self.u

    def apply(self, q: Tensor) -> Tensor:
        """Σ_t δ_t (u_t · q), (R, T, d_out), for inputs q (R, T, d_in); one edit for each row."""
        return q @ self.u.to(q.device).mT @ self.delta.to(q.device)


class ChangePatch(WeightsPatch):
    """``values`` are the changes ΔW, summed over the edits, by the name of the parameter."""

    FILE = "changes.safetensors"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        changed = dict[str, Tensor]()
        for name, change in self.changes().items():
            before = self.editor.vlm.parameter(name)
            changed[name] = before + change.to(before.device)
        return changed

    def changes(self) -> dict[str, Tensor]:
        """The tensor that is added to each parameter."""
        return self.values


@torch.enable_grad()
def gradient_factors(
    vlm: VLM, layer: int, sites: Sequence[str], hidden: HiddenBatch
) -> dict[str, Factors]:
    """By site, the factors of the gradient of each edit, on the model's device.

    ``sites`` are linear layers above ``layer``, ``hidden`` the edits' states at ``layer``.
    """
    record = Recorder(*(site + INPUT for site in sites))
    zeros = Zeros(sites)
    with vlm.patched(record), vlm.patched(zeros):
        logits = vlm.resume(layer, hidden, hidden.answer_positions())
    labels = hidden.answer_tokens().to(logits.device)
    loss = nll(logits, labels, hidden.answer_rows().to(logits.device), len(hidden)).sum()
    deltas = torch.autograd.grad(loss, [zeros.added[site] for site in sites])
    found = dict[str, Factors]()
    for site, gradient in zip(sites, deltas, strict=True):
        delta = gradient.float().to(vlm.device)
        u = record.seen[site + INPUT].detach().float().to(vlm.device)
        found[site] = Factors(u * (delta != 0).any(-1, keepdim=True), delta)
    return found


class Zeros(Patch):
    """Adds a zero tensor to modules' outputs; its gradient is ∂L/∂output. ``added`` holds them."""

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = sites
        self.added = dict[str, Tensor]()

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        return {site: partial(self.add, site) for site in self.sites}

    def add(self, site: str, output: Tensor) -> Tensor:
        """Add zeros at a site."""
        self.added[site] = torch.zeros_like(output, requires_grad=True)
        return output + self.added[site]
