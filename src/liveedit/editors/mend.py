"""MEND: a learned transformation of an edit's gradient, through the rank-one factors that it is
made of.

Mitchell, Lin, Bosselut, Finn, Manning: "Fast Model Editing at Scale", ICLR 2022 (arXiv 2110.11309).
Released code: github.com/eric-mitchell/mend, carried on in EasyEdit and VLKEB; another
implementation came with LiveEdit. For every matrix W of the feed-forward networks in the last three
layers, and every token t of the edit that has a gradient,

    z   = the input u_t and the output's gradient δ_t one after the other, each number less its running mean and
          divided by its running standard deviation                                                  (section 3)
    h   = z + ρ(s₁ ⊙ (U₁ V₁ z + b₁) + o₁)      ũ_t, δ̃_t = h + ρ(s₂ ⊙ (U₂ V₂ h + b₂) + o₂)            (Eq. 3)
    ΔW  = −α Σ_t δ̃_t ũ_tᵀ

Matrices of one shape share U, V, b and the running statistics; scale s, shift o and step size α are
each matrix's own. At first U, b and o are 0 and s is 1, so that the network is the identity.
Training minimises

    c_edit · (−log p(target)) of the edit and of its rephrasings  +  c_loc · KL(unedited ‖ edited) elsewhere     (Eq. 4)

by Adam, α at a rate of its own, over edits made one at a time.

    point               paper and its code              released with LiveEdit         here
    sign                − in the paper, + in the code   +                              −; α is learned, so it may turn
    tokens              summed                          mean over those of all edits   ``combine``: summed, or the mean
    trained on          rephrasings                     the edit, too                  the edit, too
    c_edit, c_loc       0.1, 1                          0.1, 0.1                       0.1, 1
    divergence          over all tokens (VLKEB)         over the answer's              over the answer's
    statistics          one matrix after another        one matrix after another       all of a shape, then the change
    before two tokens   an error                        an error                       nothing is normalised

The mean dilutes: with it the change that N edits make is N times smaller than their sum, and goes
on shrinking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from liveedit.editors import PAPERS
from liveedit.editors.common.feed_forward import DOWN
from liveedit.editors.common.gradient_transform import ChangePatch, Factors, GradientEditor
from liveedit.errors import BadInput
from liveedit.models.vlm import VLM
from liveedit.settings import Count, NotNegative, Positive

__all__ = ["MEND", "GradientTransform", "MENDConfig"]

TOKENS = ".tokens"
"""The end of the name under which a patch keeps how many tokens a matrix's change was made of."""


@dataclass(frozen=True)
class MENDConfig:
    """Settings; the defaults are those released for VLMs.

    ``layers`` counts the decoder layers that are edited, from the last one. ``rank`` is that of U
    V, no more than their width. ``alpha`` is what the step sizes start from and ``alpha_lr`` their
    learning rate. ``combine`` "sum" adds the changes of an edit's tokens, "mean" takes the mean
    over the tokens of all edits (LiveEdit's code). ``eos`` ends every target with the end of text.
    ``generality`` and ``locality`` are the metrics trained on.
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
    """x + ρ(s ⊙ (U V x + b) + o), one layer of Eq. 3, for rows x (N, width); s and o are those of
    one of the modes.
    """

    def __init__(self, width: int, rank: int, modes: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.u, self.v = (
            nn.Parameter(torch.zeros(width, rank)),
            nn.Parameter(torch.randn(rank, width)),
        )
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale, self.shift = (
            nn.Parameter(torch.ones(modes, width)),
            nn.Parameter(torch.zeros(modes, width)),
        )

    def forward(self, x: Tensor, mode: int) -> Tensor:
        inner = self.scale[mode] * (x @ self.v.T @ self.u.T + self.bias) + self.shift[mode]
        return x + inner.clamp(
            min=0
        )  # unlike relu's, its gradient at 0, where training starts, is not 0


class GradientTransform(nn.Module):
    """The network for all matrices (d_out, d_in) of one shape; a mode is the place of a matrix
    among them.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, d_out: int, d_in: int, rank: int, modes: int) -> None:
        super().__init__()
        self.d_in, width = d_in, d_in + d_out
        self.first, self.second = (
            ResidualLayer(width, rank, modes),
            ResidualLayer(width, rank, modes),
        )
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.zeros(width))  # Σ (z − mean)²

    @torch.no_grad()
    def observe(self, factors: Factors) -> None:
        """Let the running statistics take in the N tokens that have a gradient, as if one by one
        (Welford).
        """
        z = torch.cat([factors.u, factors.delta], -1)[tokens(factors)]
        count = self.count + len(z)
        step = z.mean(0) - self.mean
        self.spread += (z - z.mean(0)).square().sum(0) + step.square() * self.count * len(z) / count
        self.mean += step * len(z) / count
        self.count.copy_(count)

    def normalised(self, z: Tensor) -> Tensor:
        """``z`` less the mean, by the standard deviation; as it is before the second token."""
        return (
            z
            if self.count < 2
            else (z - self.mean) / ((self.spread / (self.count - 1)).sqrt() + 1e-7)
        )

    def forward(self, factors: Factors, mode: int) -> Factors:
        """ũ and δ̃ of the tokens that have a gradient, 0 for the others."""
        both, here = torch.cat([factors.u, factors.delta], -1), tokens(factors)
        changed = torch.zeros_like(both)
        changed[here] = self.second(self.first(self.normalised(both[here]), mode), mode)
        return Factors(changed[..., : self.d_in], changed[..., self.d_in :])


def tokens(factors: Factors) -> Tensor:
    """Which tokens (B, n) have a gradient."""
    return (factors.u != 0).any(-1) & (factors.delta != 0).any(-1)


class MENDPatch(ChangePatch):
    """With ``combine="mean"`` ``values`` hold the tokens that each change was made of as well."""

    editor: "MEND"

    def changes(self) -> dict[str, Tensor]:
        """See :meth:`ChangePatch.changes`."""
        if self.editor.config.combine == "sum":
            return self.values
        return {
            name: value / self.values[name + TOKENS]
            for name, value in self.values.items()
            if not name.endswith(TOKENS)
        }


class MEND(GradientEditor):
    """The editor. Raises :class:`BadInput` for another ``combine`` and where no layer is left below
    those edited.
    """

    name = "mend"
    paper = PAPERS["mend"]
    Config = MENDConfig
    patch_class = MENDPatch
    leaves = (
        "gate_proj",
        "up_proj",
        "gate_up_proj",
        "fc1",
        "w1",
        "w3",
        "dense_h_to_4h",
        "pre_expert_proj",
        *DOWN,
    )
    query_time = frozenset({"alpha_lr", "c_edit", "c_loc", "generality", "locality"})
    config: MENDConfig

    def __init__(self, vlm: VLM, config: MENDConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.combine not in ("sum", "mean"):
            raise BadInput(
                f"mend cannot combine tokens by '{self.config.combine}': choose sum or mean"
            )
        shapes = [matrix.shape for matrix in self.matrices]
        self.modes = [shapes[:place].count(shape) for place, shape in enumerate(shapes)]
        self.transforms = nn.ModuleDict()
        for high, wide in dict.fromkeys(shapes):
            network = GradientTransform(high, wide, self.config.rank, shapes.count((high, wide)))
            self.transforms[f"{high}x{wide}"] = network
        self.alpha = nn.ParameterList([torch.tensor(self.config.alpha) for _ in shapes])
        self._networks = nn.ModuleDict({"transforms": self.transforms, "alpha": self.alpha})
        self._networks.to(vlm.device)

    def networks(self) -> nn.ModuleDict:
        """The network of each shape, and the step sizes."""
        return self._networks

    def rates(self) -> dict[str, float]:
        """The step sizes' own."""
        return {"alpha": self.config.alpha_lr}

    def transform(self, place: int) -> GradientTransform:
        """The network for the matrix at ``place`` in ``matrices``."""
        high, wide = self.matrices[place].shape
        network = self.transforms[f"{high}x{wide}"]
        assert isinstance(network, GradientTransform)
        return network

    def observe(self, factors: Mapping[str, Factors]) -> None:
        """See :meth:`GradientEditor.observe`."""
        for place, matrix in enumerate(self.matrices):
            self.transform(place).observe(factors[matrix.site])

    def changes(self, factors: Mapping[str, Factors], about: Sequence[str]) -> dict[str, Factors]:  # noqa: ARG002
        """See :meth:`GradientEditor.changes`. The step size is in δ̃, and with the mean the number
        of tokens, too.
        """
        changed = {}
        for place, matrix in enumerate(self.matrices):
            new = self.transform(place)(factors[matrix.site], self.modes[place])
            step = -self.alpha[place]
            if self.config.combine == "mean":
                step = step / tokens(new).sum(1)[:, None, None].clamp(min=1)
            changed[matrix.site] = Factors(new.u, step * new.delta)
        return changed

    def values(self, changes: Mapping[str, Factors]) -> dict[str, Tensor]:
        """See :meth:`GradientEditor.values`."""
        values = super().values(changes)
        if self.config.combine == "sum":
            return values
        counts = {
            matrix.name: tokens(changes[matrix.site]).sum().float() for matrix in self.matrices
        }
        summed = {name: value * counts[name] for name, value in values.items()}
        return summed | {name + TOKENS: count for name, count in counts.items()}

    def objective(
        self, terms: dict[str, Tensor], changes: Mapping[str, Factors], right: float
    ) -> Tensor:
        """See :meth:`GradientEditor.objective`."""
        c = self.config
        return torch.stack(
            [(c.c_loc if kind in c.locality else c.c_edit) * term for kind, term in terms.items()]
        ).sum()
