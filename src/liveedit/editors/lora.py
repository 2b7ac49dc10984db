"""LoRA: one low-rank update of the attention's matrices, moved on by each edit.

Hu et al.: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), as
EasyEdit uses it for editing. Every query and value projection W (d_out x d_in) of the text decoder
becomes

    W + (α/r) B A        A (r x d_in) drawn at random, B (d_out x r) zero before the first edit      (section 4.1)

and each edit (v, p, o) minimises −(1/|o|) Σ_t log f(o_t | v, p, o_<t) over all A and B, from where
the edit before left them. Rank and α are EasyEdit's. Departures: EasyEdit's multimodal files take
five steps of plain gradient descent at a rate of 0.1, falling by a tenth a step
(``optimiser="sgd"``, ``steps=5``, ``lr=0.1``), after which few edits have taken; here Adam goes on
until the loss is below ``stop``. There is no dropout, so that an edit is the same each time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from liveedit.editors import PAPERS
from liveedit.editors.common.fine_tuning import DirectEditor, WeightsPatch
from liveedit.errors import UnsupportedModel
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed

__all__ = ["LoRA", "LoRAConfig"]

TARGETS = re.compile(
    r"\.(self_attn|mixer)\.(q_proj|v_proj|q_b_proj|kv_b_proj|query_key_value)\.(\w+\.)?weight$"
)
"""Query and value projections; where they differ by modality each of them.

In latent attention (DeepSeek-V2) those that lead out of the latent states; where one matrix makes
queries, keys and values, that one.
"""


@dataclass(frozen=True)
class LoRAConfig:
    """Settings. ``eos`` ends every target with the end of text; ``seed`` draws the A."""

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
        vlm, config = self.editor.vlm, self.editor.config
        names = [name.removesuffix(".A") for name in self.values if name.endswith(".A")]
        return {
            name: vlm.parameter(name)
            + config.alpha / config.rank * self.factor(name, "B") @ self.factor(name, "A")
            for name in names
        }

    def factor(self, name: str, which: str) -> Tensor:
        """A or B of a matrix, where the matrix is."""
        return self.values[f"{name}.{which}"].to(self.editor.vlm.parameter(name).device)


class LoRA(DirectEditor):
    """Low-rank adaptation. Raises :class:`UnsupportedModel` where attention has no query and value
    projections.
    """

    name = "lora"
    paper = PAPERS["lora"]
    Config = LoRAConfig
    patch_class = LoRAPatch
    config: LoRAConfig

    def __init__(self, vlm: VLM, config: LoRAConfig | None = None) -> None:
        super().__init__(vlm, config)
        path = f"{vlm.decoder_path}.layers."
        self.names = [
            name
            for name, _ in vlm.model.named_parameters()
            if name.startswith(path) and TARGETS.search(name)
        ]
        if not self.names:
            raise UnsupportedModel(
                "lora needs query and value projections like q_proj and v_proj: this model has none"
            )
        check_changeable((name, vlm.parameter(name)) for name in self.names)

    def start(self) -> dict[str, Tensor]:
        """See :meth:`DirectEditor.start`."""
        generator, rank, values = (
            torch.Generator().manual_seed(self.config.seed),
            self.config.rank,
            {},
        )
        for name in self.names:
            high, wide = self.vlm.parameter(name).shape
            values[f"{name}.A"] = (2 * torch.rand(rank, wide, generator=generator) - 1) / sqrt(wide)
            values[f"{name}.B"] = torch.zeros(high, rank)
        return {name: value.to(self.vlm.device) for name, value in values.items()}

    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """See :meth:`DirectEditor.optimizer`."""
        kind = torch.optim.Adam if self.config.optimiser == "adam" else torch.optim.SGD
        return kind(values, lr=self.config.lr)
