"""MEND: a learned transformation of an edit's gradient, through its rank-one factors.

Mitchell, Lin, Bosselut, Finn, Manning: "Fast Model Editing at Scale", ICLR 2022 (arXiv 2110.11309).
Released code: github.com/eric-mitchell/mend, continued in EasyEdit and VLKEB; another
implementation was released with LiveEdit. For every matrix W of the feed-forward networks in the
last three layers, and every token t of the edit that has a gradient,

    z   = the input u_t and the output's gradient δ_t concatenated, each number minus its running
           mean and divided by its running standard deviation                            (section 3)
    h   = z + ρ(s₁ ⊙ (U₁ V₁ z + b₁) + o₁)      ũ_t, δ̃_t = h + ρ(s₂ ⊙ (U₂ V₂ h + b₂) + o₂)   (Eq. 3)
    ΔW  = −α Σ_t δ̃_t ũ_tᵀ

Matrices of one shape share U, V, b and the running statistics; each matrix has its own scale s,
shift o and step size α. Initially U, b and o are 0 and s is 1, so that the network is the identity.
Training minimises

    c_edit · (−log p(target)), of the edit and its rephrasings,
    + c_loc · KL(unedited ‖ edited), of other queries                                       (Eq. 4)

by Adam, α at a rate of its own, over edits made one at a time.

    point              paper and its code        with LiveEdit             here
    sign               −; in the code +          +                         −; α is learned and may
                                                                           change sign
    tokens             summed                    mean over all edits'      ``combine``: sum or mean
    trained on         rephrasings               the edit, too             the edit, too
    c_edit, c_loc      0.1, 1                    0.1, 0.1                  0.1, 1
    divergence         over all tokens (VLKEB)   over the answer's         over the answer's
    statistics         matrix after matrix       matrix after matrix       all of a shape, then ΔW
    before two tokens  an error                  an error                  nothing is normalised

With the mean, N edits change the weights by 1/N of the sum of their changes: each edit weakens
the earlier ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from liveedit.editors.common.gradient_transform import GradientEditor
from liveedit.editors.common.gradients import ChangePatch, Factors
from liveedit.editors.common.moments import Moments
from liveedit.errors import BadInput
from liveedit.models.module_names import ModuleNames
from liveedit.models.vlm import VLM
from liveedit.settings import Count, NotNegative, Positive

__all__ = ["MEND", "GradientTransform", "MENDConfig"]

TOKENS = ".tokens"
"""Suffix of a matrix's name under which a patch keeps the number of tokens of its change."""


@dataclass(frozen=True)
class MENDConfig:
    """Settings of MEND; the defaults are those released for VLMs.

    Arguments:
        layers: Number of decoder layers that are edited, counted from the last.
        rank: Rank of U V, reduced to their width if that is smaller.
        alpha: Initial step size α.
        alpha_lr: Learning rate of the step sizes.
        c_edit: Weight of the likelihood terms.
        c_loc: Weight of the divergence terms.
        combine: ``"sum"`` adds the changes of an edit's tokens, ``"mean"`` takes the mean over the
            tokens of all edits (LiveEdit's code).
        eos: Whether every target ends with the end-of-text token.
        generality: Metrics whose probes are trained to get the target.
        locality: Metrics whose probes are trained to stay as they were.
    """

    layers: int = 3
    rank: Count = 1920
    alpha: Positive = 1e-4
    alpha_lr: NotNegative = 1e-4
    c_edit: NotNegative = 0.1
    c_loc: NotNegative = 1.0
    combine: Literal["sum", "mean"] = "sum"
    eos: bool = False
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("text_locality", "image_locality")


class ResidualLayer(nn.Module):
    """x + ρ(s ⊙ (U V x + b) + o), one layer of Eq. 3, for rows x (N, width).

    s and o are those of one of the ``modes``: each matrix of a shape has a mode.
    """

    def __init__(self, width: int, rank: int, modes: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.shift = nn.Parameter(torch.zeros(modes, width))

    def forward(self, x: Tensor, mode: int) -> Tensor:
        inner = self.scale[mode] * (x @ self.v.T @ self.u.T + self.bias) + self.shift[mode]
        return x + inner.clamp(
            min=0
        )  # unlike relu's, its gradient at 0, where training starts, is 1


class GradientTransform(nn.Module):
    """The network for all matrices (d_out, d_in) of one shape."""

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, d_out: int, d_in: int, rank: int, modes: int) -> None:
        super().__init__()
        self.d_in = d_in
        width = d_in + d_out
        self.first = ResidualLayer(width, rank, modes)
        self.second = ResidualLayer(width, rank, modes)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.zeros(width))

    @property
    def moments(self) -> Moments:
        """The running statistics."""
        return Moments(self.count, self.mean, self.spread)

    @torch.no_grad()
    def observe(self, factors: Factors) -> None:
        """Update the running statistics with the N tokens that have a gradient."""
        z = torch.cat([factors.u, factors.delta], -1)[with_gradient(factors)]
        moments = self.moments.joined(z)
        self.count.copy_(moments.count)
        self.mean.copy_(moments.mean)
        self.spread.copy_(moments.spread)

    def forward(self, factors: Factors, mode: int) -> Factors:
        """ũ and δ̃ of the tokens that have a gradient, 0 for the others."""
        both = torch.cat([factors.u, factors.delta], -1)
        here = with_gradient(factors)
        changed = torch.zeros_like(both)
        changed[here] = self.second(self.first(self.moments.normalised(both[here]), mode), mode)
        return Factors(changed[..., : self.d_in], changed[..., self.d_in :])


def with_gradient(factors: Factors) -> Tensor:
    """The tokens (B, n) that have a gradient."""
    return (factors.u != 0).any(-1) & (factors.delta != 0).any(-1)


class MENDPatch(ChangePatch):
    """With ``combine="mean"`` ``values`` also hold the number of tokens of each change."""

    editor: "MEND"

    def changes(self) -> dict[str, Tensor]:
        """See :meth:`ChangePatch.changes`."""
        if self.editor.config.combine == "sum":
            return self.values
        names = [name for name in self.values if not name.endswith(TOKENS)]
        return {name: self.values[name] / self.values[name + TOKENS] for name in names}


class MEND(GradientEditor):
    """The editor.

    Raises :class:`BadInput` for another ``combine`` and where no layer is left below those edited.
    """

    name = "mend"
    Config = MENDConfig
    patch_class = MENDPatch
    inference_settings = frozenset({"alpha_lr", "c_edit", "c_loc", "generality", "locality"})
    config: MENDConfig

    def __init__(self, vlm: VLM, config: MENDConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.combine not in ("sum", "mean"):
            raise BadInput(
                f"mend cannot combine tokens by '{self.config.combine}': choose sum or mean"
            )
        shapes = [matrix.shape for matrix in self.matrices]
        self.modes = [shapes[:index].count(shape) for index, shape in enumerate(shapes)]
        self.transforms = nn.ModuleDict()
        for high, wide in dict.fromkeys(shapes):
            modes = shapes.count((high, wide))
            network = GradientTransform(high, wide, self.config.rank, modes)
            self.transforms[f"{high}x{wide}"] = network
        self.alpha = nn.ParameterList([torch.tensor(self.config.alpha) for _ in shapes])
        self._networks = nn.ModuleDict({"transforms": self.transforms, "alpha": self.alpha})
        self._networks.to(vlm.device)

    @staticmethod
    def edited(names: ModuleNames) -> tuple[str, ...]:
        """See :meth:`GradientEditor.edited`: all matrices of the network."""
        return names.gate + names.up + names.down

    def networks(self) -> nn.ModuleDict:
        """The network of each shape, and the step sizes."""
        return self._networks

    def rates(self) -> dict[str, float]:
        """See :meth:`TrainableEditor.rates`: that of the step sizes."""
        return {"alpha": self.config.alpha_lr}

    def transform(self, index: int) -> GradientTransform:
        """The network for the matrix at ``index`` in ``matrices``."""
        high, wide = self.matrices[index].shape
        network: GradientTransform = self.transforms[f"{high}x{wide}"]  # type: ignore[assignment]
        return network

    def adapt(self, factors: Mapping[str, Factors]) -> None:
        """See :meth:`GradientEditor.adapt`."""
        for index, matrix in enumerate(self.matrices):
            self.transform(index).observe(factors[matrix.site])

    def changes(
        self,
        factors: Mapping[str, Factors],
        descriptions: Sequence[str],  # noqa: ARG002
    ) -> dict[str, Factors]:
        """See :meth:`GradientEditor.changes`.

        δ̃ includes the step size and, for the mean, the division by the number of tokens.
        """
        changed = dict[str, Factors]()
        for index, matrix in enumerate(self.matrices):
            new = self.transform(index)(factors[matrix.site], self.modes[index])
            step = -self.alpha[index]
            if self.config.combine == "mean":
                step = step / with_gradient(new).sum(1)[:, None, None].clamp(min=1)
            changed[matrix.site] = Factors(new.u, step * new.delta)
        return changed

    def values(self, changes: Mapping[str, Factors]) -> dict[str, Tensor]:
        """See :meth:`GradientEditor.values`."""
        values = super().values(changes)
        if self.config.combine == "sum":
            return values
        summed = dict[str, Tensor]()
        for matrix in self.matrices:
            count = with_gradient(changes[matrix.site]).sum().float()
            summed[matrix.name] = values[matrix.name] * count
            summed[matrix.name + TOKENS] = count
        return summed

    def objective(
        self,
        terms: dict[str, Tensor],
        changes: Mapping[str, Factors],  # noqa: ARG002
        right: float,  # noqa: ARG002
    ) -> Tensor:
        """See :meth:`GradientEditor.objective`: Eq. 4."""
        weighted = []
        for kind, term in terms.items():
            weight = self.config.c_loc if self.must_stay(kind) else self.config.c_edit
            weighted.append(weight * term)
        return torch.stack(weighted).sum()
