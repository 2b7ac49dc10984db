"""LoRA: one low-rank update of the attention's matrices, trained further by each edit.

Hu et al.: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), as
EasyEdit uses it for editing. Every query and value projection W (d_out × d_in) of the text decoder
becomes

    W + (α/r) B A     A (r × d_in) random, B (d_out × r) zero before the first edit    (section 4.1)

and each edit (v, p, o) minimises −(1/|o|) Σ_t log f(o_t | v, p, o_<t) over all A and B, starting
from their values after the previous edit. Rank and α are EasyEdit's.

Departures. EasyEdit's multimodal files take five steps of plain gradient descent at a rate of 0.1,
which falls by a tenth each step (``optimiser="sgd"``, ``steps=5``, ``lr=0.1``); few edits succeed
with that. Here Adam continues until the loss is below ``stop``. There is no dropout, so that an
edit is deterministic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from liveedit.editors.common.fine_tuning import FineTuningEditor, WeightsPatch
from liveedit.errors import UnsupportedModel
from liveedit.models.feed_forward import query_value_projections
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed

__all__ = ["LoRA", "LoRAConfig"]


@dataclass(frozen=True)
class LoRAConfig:
    """Settings of LoRA.

    Arguments:
        rank: Rank r of the update.
        alpha: Scale α of the update, which is divided by the rank.
        optimiser: ``"adam"``, or plain gradient descent, ``"sgd"``.
        lr: Learning rate.
        steps: Maximum number of steps per edit.
        stop: Loss below which an edit ends.
        eos: Whether every target ends with the end-of-text token.
        seed: Seed of the initial A.
    """

    rank: Count = 8
    alpha: Positive = 32.0
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    steps: Index = 25
    stop: NotNegative = 1e-2
    eos: bool = False
    seed: Seed = 0


class LoRAPatch(WeightsPatch):
    """``values`` are A and B of each matrix, named after it."""

    FILE = "lora.safetensors"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        config = self.editor.config
        changed = dict[str, Tensor]()
        for name in [name.removesuffix(".A") for name in self.values if name.endswith(".A")]:
            update = config.alpha / config.rank * self.factor(name, "B") @ self.factor(name, "A")
            changed[name] = self.editor.vlm.parameter(name) + update
        return changed

    def factor(self, name: str, which: str) -> Tensor:
        """A or B of a matrix, on the matrix's device."""
        return self.values[f"{name}.{which}"].to(self.editor.vlm.parameter(name).device)


class LoRA(FineTuningEditor[LoRAPatch]):
    """Low-rank adaptation.

    Raises :class:`UnsupportedModel` where attention has no query and value projections.
    """

    name = "lora"
    Config = LoRAConfig
    patch_class = LoRAPatch
    config: LoRAConfig

    def __init__(self, vlm: VLM, config: LoRAConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.names = query_value_projections(vlm)
        if not self.names:
            raise UnsupportedModel(
                "lora needs query and value projections like q_proj and v_proj: this model has none"
            )
        check_changeable((name, vlm.parameter(name)) for name in self.names)

    def start(self) -> dict[str, Tensor]:
        """See :meth:`FineTuningEditor.start`."""
        generator = torch.Generator().manual_seed(self.config.seed)
        values = dict[str, Tensor]()
        for name in self.names:
            high, wide = self.vlm.parameter(name).shape
            drawn = torch.rand(self.config.rank, wide, generator=generator)
            values[f"{name}.A"] = (2 * drawn - 1) / sqrt(wide)
            values[f"{name}.B"] = torch.zeros(high, self.config.rank)
        return {name: value.to(self.vlm.device) for name, value in values.items()}

    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """See :meth:`FineTuningEditor.optimizer`."""
        kind = torch.optim.Adam if self.config.optimiser == "adam" else torch.optim.SGD
        return kind(values, lr=self.config.lr)
