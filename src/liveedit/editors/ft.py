"""FT-L: fine-tune a piece of the last decoder layer on each edit, one after another.

The baseline of Chen et al. (LiveEdit, CVPR 2025) and of Huang et al. (VLKEB, NeurIPS 2024). For an edit (v, p, o)

    minimise  −(1/|o|) Σ_t log f(o_t | v, p, o_<t)  over the weights, by AdamW, until it is below ``stop``

The defaults are those released with LiveEdit: the MLP's down projection (OPT: ``fc2``), learning rate 1e-3, 25 steps,
no weight decay. VLKEB's form moves all of the MLP (``weights="mlp"``; its files leave out the gate for LLaVA), with a
rate of 1e-4 or 2e-4 and 10 to 20 steps.

Nothing below the last layer changes, so its input is computed once an edit; a step costs that layer and the output
embedding. The weights in training are float32, whatever the model's type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.base import Editor
from liveedit.editors.direct import WeightsPatch
from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["FTL", "FTLConfig"]

PLACES = {"down": ("mlp.down_proj.", "fc2."), "mlp": ("mlp.", "fc1.", "fc2.")}
"""How the names of matrices begin within a layer, for Llama and its kin and for OPT."""


@dataclass(frozen=True)
class FTLConfig:
    """Settings; the defaults are LiveEdit's released ones.

    ``weights`` are the down projection or the whole MLP of the last layer. An edit takes up to ``steps`` steps at the
    rate ``lr`` and ends early at a loss below ``stop``. ``eos`` ends every target with the end of text.
    """

    weights: Literal["down", "mlp"] = "down"
    lr: float = 1e-3
    steps: int = 25
    stop: float = 1e-2
    eos: bool = False


class FTL(Editor):
    """Fine-tuning of the last layer. Raises :class:`UnsupportedModel` where that has no MLP of a known form."""

    name = "ft-l"
    paper = PAPERS["ft-l"]
    Config = FTLConfig
    config: FTLConfig

    def __init__(self, vlm: VLM, config: FTLConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.weights not in PLACES:
            raise BadInput(f"ft-l cannot train '{self.config.weights}': choose {' or '.join(PLACES)}")
        last = vlm.num_layers - 1
        begins = PLACES[self.config.weights]
        self.below = last - 1
        self.names = [
            f"{vlm.decoder_path}.layers.{last}.{name}"
            for name, parameter in vlm.layers[last].named_parameters()
            if name.startswith(begins) and parameter.ndim == 2
        ]
        if not self.names or self.below < 0:
            raise UnsupportedModel("ft-l needs two decoder layers or more, the last with an MLP like Llama's or OPT's")

    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> WeightsPatch:
        """See :meth:`Editor.edit`. Each edit goes on from the weights that the one before left."""
        held = WeightsPatch(self, {}, 0) if patch is None else self._own(patch)
        for query in queries:
            if not query.target.strip():
                raise BadInput(f"an edit needs a target: say what '{query.prompt}' is to be answered")
        if self.vlm.patches:
            raise BadInput("an edit starts from the unedited model: leave `patched` before editing")
        if not queries:
            return held
        start = {name: held.values.get(name, self.vlm.model.get_parameter(name)) for name in self.names}
        values = {name: value.detach().float().clone().requires_grad_() for name, value in start.items()}
        for query in queries:
            self._fit(values, query)
        return WeightsPatch(self, {name: value.detach() for name, value in values.items()}, len(held) + len(queries))

    def load_patch(self, folder: Path) -> WeightsPatch:
        """See :meth:`Editor.load_patch`."""
        return WeightsPatch.load(self, folder)

    @torch.enable_grad()
    def _fit(self, values: dict[str, Tensor], query: Query) -> None:
        """Train ``values``, in place, until the model answers ``query`` with its target."""
        hidden = self.vlm.hidden(self.vlm.encode([query], eos=self.config.eos), self.below)
        positions = hidden.answer_positions()
        target = hidden.labels.roll(-1, 1)[positions]
        optimizer = torch.optim.AdamW(values.values(), lr=self.config.lr, weight_decay=0.0)
        moving = WeightsPatch(self, values, 1)
        for _ in range(self.config.steps):
            with self.vlm.patched(moving):
                logits = self.vlm.resume(self.below, hidden, positions)
            loss = F.cross_entropy(logits.float(), target.to(logits.device))
            if loss < self.config.stop:
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _own(self, patch: Patch) -> WeightsPatch:
        if not isinstance(patch, WeightsPatch) or self._marks(patch.editor) != self._marks(self):
            raise Mismatch("the patch was made by another editor: go on with the editor that made it")
        return patch

    @staticmethod
    def _marks(editor: Editor) -> tuple[str, str]:
        return editor.fingerprint, editor.vlm.fingerprint
