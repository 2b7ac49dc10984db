"""UltraEdit: one ridge regression a turn of edits, on gradients normalised over all edits so far.

Gu, Huang, Gu, Zhang: "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language
Models", TMLR 2026 (arXiv 2505.14679). Released code: github.com/XiaojieGu/UltraEdit, commit
0beb222. Edits come in turns. For each matrix W (d_out × d_in) that is edited, and each token of a
target, let h be the layer's input and g the gradient at its output where the token is predicted,
at the weights as the turn finds them. Then for the N tokens of a turn

    ẑ = (z − μ) / (σ + ε)      z = [h, g]; μ, σ over the tokens of all edits up to this turn's
    v = −η ‖ĥ‖² ĝ              ẑ = [ĥ, ĝ]
    ΔWᵀ = (HᵀH + I)⁻¹ HᵀV      H (N × d_in) has the rows h, V (N × d_out) the rows v

and ΔW is added to W. H is not normalised. Matrices of one shape share μ and σ. There is no network,
no subject and no memory of earlier edits but these statistics.

Edited are, as released, gate and up projections (``matrices="down"``: the down projections, as for
Mistral and GPT-J) of a block of layers that ends before the last one: by default a third of the
layers, like 18 to 26 of Qwen2.5's 28.

Departures:

- ΔW is computed as Cᵀ H, C = (HHᵀ + I)⁻¹ V, the same by the push-through identity: N numbers a side
  rather than d_in.
- A turn need not be full, and does not end with a call. Until it is full the patch keeps its z, and
  it is solved again whenever an edit joins it. So edits made one by one and together are the same.
- The loss is summed over tokens; released is the mean over those of a batch of ten edits, by which
  g differs between batches. A factor common to all g cancels in ẑ.
- σ² is the variance of all tokens; in the released code each batch's part of it is too large by
  1/(n − 1), n the batch's number of tokens, and one of a single token makes it undefined. A single
  token in all, which has no deviation, is not normalised.

The method needs several edits: with few tokens μ and σ are theirs alone. A target of one token, the
only one so far, changes nothing where one layer's gate and up are edited: their h is the same, so
ĥ = 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.gradients import ChangePatch, gradient_factors, matrices_of
from liveedit.editors.common.moments import Moments
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Positive
from liveedit.types import Query

__all__ = ["UltraEdit", "UltraEditConfig", "coefficients"]

FEATURES = ".features"
COEFFICIENTS = ".coefficients"
"""Suffixes of a matrix's name under which a patch keeps z and C of a turn that is not full."""
STATISTICS = ("count", "mean", "spread")


@dataclass(frozen=True)
class UltraEditConfig:
    """Settings of UltraEdit; the defaults are the released ones.

    Arguments:
        layers: Number of decoder layers that are edited, counted from the last but one; ``None``:
            a third of the layers.
        matrices: ``"up"``: the matrices that lead to the inner width, gates included;
            ``"down"``: those that lead out of it.
        turn: Edits that make a turn.
        lr: Step size η.
        eos: Whether every target ends with the end-of-text token.
    """

    layers: Count | None = None
    matrices: Literal["up", "down"] = "up"
    turn: Count = 100
    lr: Positive = 1e-6
    eos: bool = False


class UltraEditPatch(ChangePatch):
    """``values`` hold ΔW of all full turns, by the name of the parameter, and their statistics.

    Those of a shape are ``64x32.count``, ``.mean`` and ``.spread``. While the last turn is not
    full, names with suffixes hold each matrix's z (N, d_in + d_out) and C (N, d_out).
    """

    FILE = "ultraedit.safetensors"
    editor: "UltraEdit"

    def changes(self) -> dict[str, Tensor]:
        """See :meth:`ChangePatch.changes`."""
        changed = dict[str, Tensor]()
        for matrix in self.editor.matrices if len(self) else ():
            parts = [self.values[matrix.name]] if matrix.name in self.values else []
            if matrix.name + FEATURES in self.values:
                inputs = self.values[matrix.name + FEATURES][:, : matrix.shape[1]]
                parts.append(self.values[matrix.name + COEFFICIENTS].T @ inputs)
            changed[matrix.name] = torch.stack(parts).sum(0)
        return changed

    def full_turns(self) -> "UltraEditPatch":
        """The patch without the edits of a last turn that is not full."""
        open_turn = (FEATURES, COEFFICIENTS)
        kept = {name: value for name, value in self.values.items() if not name.endswith(open_turn)}
        return UltraEditPatch(self.editor, kept, len(self) - len(self) % self.editor.config.turn)

    def moments(self, shape: tuple[int, int]) -> Moments:
        """The statistics of the matrices of a shape, over all full turns."""
        name = shape_name(shape)
        if f"{name}.count" in self.values:
            return Moments(*(self.values[f"{name}.{part}"] for part in STATISTICS))
        device = self.editor.vlm.device
        none = torch.zeros(sum(shape), device=device)
        return Moments(torch.zeros((), device=device), none, none)


class UltraEdit(Editor[UltraEditPatch]):
    """The editor.

    Raises :class:`BadInput` for more layers than can be edited, :class:`UnsupportedModel` where
    none has a matrix of a known name.
    """

    name = "ultraedit"
    Config = UltraEditConfig
    config: UltraEditConfig

    def __init__(self, vlm: VLM, config: UltraEditConfig | None = None) -> None:
        super().__init__(vlm, config)
        names = vlm.module_names
        wanted = names.down if self.config.matrices == "down" else names.gate + names.up
        known = {layer: matrices_of(vlm, layer, wanted) for layer in range(1, vlm.num_layers - 1)}
        usable = [layer for layer, found in known.items() if found]
        if not usable:
            raise UnsupportedModel(
                f"{self.name} needs feed-forward networks with linear layers for every token"
            )
        count = self.config.layers or min(max(1, vlm.num_layers // 3), len(usable))
        if count > len(usable):
            raise BadInput(f"{self.name} can edit 1 to {len(usable)} layers here: change layers")
        edited = usable[-count:]
        self.below: int = edited[0] - 1
        self.matrices = list(chain.from_iterable(known[layer] for layer in edited))
        check_changeable((matrix.name, vlm.parameter(matrix.name)) for matrix in self.matrices)

    def load_patch(self, folder: Path) -> UltraEditPatch:
        """See :meth:`Editor.load_patch`."""
        return UltraEditPatch.load(self, folder)

    @torch.no_grad()
    def edit(self, queries: Sequence[Query], patch: UltraEditPatch | None = None) -> UltraEditPatch:
        """See :meth:`Editor.edit`. The first edits join the last turn, if it is not full."""
        self.validate(queries, patch)
        made = UltraEditPatch(self, {}, 0) if patch is None else patch
        start = 0
        while start < len(queries):
            stop = start + self.config.turn - len(made) % self.config.turn
            made = self.extend(made, queries[start:stop])
            start = stop
        return made

    def extend(self, patch: UltraEditPatch, queries: Sequence[Query]) -> UltraEditPatch:
        """The patch with ``queries`` in its last turn, or in a new one if that is full."""
        before = patch.full_turns()
        count = len(patch) + len(queries)
        is_full = count % self.config.turn == 0
        with self.vlm.patched(before):
            new = [self.features(query) for query in queries]
        features = dict[str, Tensor]()
        for name in (matrix.name for matrix in self.matrices):
            known = patch.values.get(name + FEATURES)
            rows = [made[name] for made in new]
            features[name] = torch.cat(rows if known is None else [known, *rows])
        moments = self.moments(before, features)
        values = dict(before.values)
        for matrix in self.matrices:
            z = features[matrix.name]
            C = coefficients(z, moments[matrix.shape], matrix.shape[1], self.config.lr)
            if is_full:
                change = C.T @ z[:, : matrix.shape[1]]
                values[matrix.name] = change + before.values.get(matrix.name, 0.0)
            else:
                values |= {matrix.name + FEATURES: z, matrix.name + COEFFICIENTS: C}
        if is_full:
            values |= statistics(moments)
        return UltraEditPatch(self, values, count)

    def features(self, query: Query) -> dict[str, Tensor]:
        """By the matrix's name z (n, d_in + d_out) of an edit, n the tokens of its target."""
        batch = self.vlm.encode([query], eos=self.config.eos)
        hidden = self.vlm.hidden(batch, self.below)
        sites = [matrix.site for matrix in self.matrices]
        factors = gradient_factors(self.vlm, self.below, sites, hidden)
        here = hidden.answer_positions()[0].to(self.vlm.device)
        found = dict[str, Tensor]()
        for matrix in self.matrices:
            h = factors[matrix.site].u[0, here]
            g = factors[matrix.site].delta[0, here] * len(h)  # of the sum over n tokens
            found[matrix.name] = torch.cat([h, g], -1)
        return found

    def moments(
        self, before: UltraEditPatch, features: Mapping[str, Tensor]
    ) -> dict[tuple[int, int], Moments]:
        """The statistics of each shape once a turn's ``features``, by the matrix, are counted."""
        found = dict[tuple[int, int], Moments]()
        for shape in dict.fromkeys(matrix.shape for matrix in self.matrices):
            alike = [features[matrix.name] for matrix in self.matrices if matrix.shape == shape]
            found[shape] = before.moments(shape).joined(torch.cat(alike))
        return found


def coefficients(z: Tensor, moments: Moments, d_in: int, lr: float) -> Tensor:
    """C (N, d_out) = (HHᵀ + I)⁻¹ V of a turn with the features z (N, d_in + d_out)."""
    H = z[:, :d_in]
    normalised = moments.normalised(z)
    h, g = normalised[:, :d_in], normalised[:, d_in:]
    V = -lr * h.square().sum(1, keepdim=True) * g
    C: Tensor = torch.linalg.solve(H @ H.T + torch.eye(len(H), device=H.device), V)
    return C


def shape_name(shape: tuple[int, int]) -> str:
    """The name of a shape in the values of a patch."""
    high, wide = shape
    return f"{high}x{wide}"


def statistics(moments: Mapping[tuple[int, int], Moments]) -> dict[str, Tensor]:
    """The values of a patch that hold statistics."""
    found = dict[str, Tensor]()
    for shape, known in moments.items():
        for part in STATISTICS:
            found[f"{shape_name(shape)}.{part}"] = getattr(known, part)
    return found
