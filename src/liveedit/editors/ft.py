"""FT-L and FT-M: fine-tune a piece of the model on each edit, one after another.

The baselines of Chen et al. (LiveEdit, CVPR 2025) and of Huang et al. (VLKEB, NeurIPS 2024, there
FT (LLM) and FT (Vis)). For an edit (v, p, o)

    minimise  −(1/|o|) Σ_t log f(o_t | v, p, o_<t)  over the weights, by AdamW, until it is below ``stop``

FT-L moves the MLP of the last decoder layer, FT-M what connects the vision tower to the text
decoder: the projector of LLaVA, the Q-Former of BLIP-2, the merger of Qwen2-VL. The defaults are
those released with LiveEdit: of the MLP the down projection alone (OPT: ``fc2``; among experts that
of the shared one, or those of all), learning rate 1e-3, 25 steps, no weight decay. VLKEB's form
moves all of the MLP (``weights="mlp"``; its files leave out the gate for LLaVA), with a rate of
1e-4 or 2e-4 and 10 to 20 steps.

What the weights do not change is computed once an edit: for FT-L all below the last layer, so that
a step costs that layer and the output embedding; for FT-M the vision tower. The weights in training
are float32, whatever the model's type. FT-M changes what images look like, so a question without
image is as it was, and cannot be edited.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from liveedit.editors import PAPERS
from liveedit.editors.common.feed_forward import (
    DOWN,
    feed_forward,
    highest_layer,
    matrices,
    stacked,
)
from liveedit.editors.common.fine_tuning import DirectEditor
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.patch import INPUT
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.models.wrappers import changeable
from liveedit.settings import Index, NotNegative, Positive
from liveedit.types import Query

__all__ = ["FTL", "FTM", "FTLConfig", "FTMConfig"]


@dataclass(frozen=True)
class FTMConfig:
    """Settings; the defaults are LiveEdit's released ones.

    An edit takes up to ``steps`` steps at the rate ``lr`` and ends early at a loss below ``stop``.
    ``eos`` ends every target with the end of text.
    """

    lr: Positive = 1e-3
    steps: Index = 25
    stop: NotNegative = 1e-2
    eos: bool = False


@dataclass(frozen=True)
class FTLConfig(FTMConfig):
    """The settings of FT-M, and ``weights``: the down projection or the whole MLP of the last
    layer.
    """

    weights: Literal["down", "mlp"] = "down"


class FineTuning(DirectEditor):
    """What both have in common: parameters of the model, moved by AdamW. ``names`` are the
    parameters.
    """

    names: list[str]
    config: FTMConfig

    def start(self) -> dict[str, Tensor]:
        """See :meth:`DirectEditor.start`."""
        return {name: self.vlm.parameter(name) for name in self.names}

    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """See :meth:`DirectEditor.optimizer`."""
        return torch.optim.AdamW(values, lr=self.config.lr, weight_decay=0.0)


class FTL(FineTuning):
    """Fine-tuning of the last layer. Raises :class:`UnsupportedModel` where that has no MLP of a
    known form.
    """

    name = "ft-l"
    paper = PAPERS["ft-l"]
    Config = FTLConfig
    config: FTLConfig

    def __init__(self, vlm: VLM, config: FTLConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.weights not in ("down", "mlp"):
            raise BadInput(f"ft-l cannot train '{self.config.weights}': choose down or mlp")
        last = highest_layer(vlm, vlm.num_layers - 1)
        self.below = last - 1
        found = self.down(last) if self.config.weights == "down" else self.mlp(last)
        self.names = [f"{vlm.decoder_path}.{name}" for name in found]
        if not self.names or self.below < 0:
            raise UnsupportedModel(
                "ft-l needs two decoder layers, the last with an MLP of a known form"
            )
        check_changeable(self.start().items())

    def down(self, layer: int) -> list[str]:
        """The down projection, or those of all experts where they are in one tensor and there is
        none beside them.
        """
        return [f"{name}.weight" for name in matrices(self.vlm, layer, DOWN)] or stacked(
            self.vlm, layer
        )

    def mlp(self, layer: int) -> list[str]:
        """All matrices of the MLP."""
        place = feed_forward(self.vlm, layer)
        within = tuple(f"{site.removesuffix(INPUT)}." for site in (place.reads, place.writes))
        names = [f"layers.{layer}.{name}" for name in changeable(self.vlm.layers[layer])]
        parameters = dict(self.vlm.decoder.named_parameters())
        return [name for name in names if name.startswith(within) and parameters[name].ndim > 1]

    @contextmanager
    def answering(self, query: Query) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
        """See :meth:`DirectEditor.answering`. The layers below run once."""
        hidden = self.vlm.hidden(self.vlm.encode([query], eos=self.config.eos), self.below)
        positions = hidden.answer_positions()
        yield (
            lambda: self.vlm.resume(self.below, hidden, positions),
            hidden.labels.roll(-1, 1)[positions],
        )


class FTM(FineTuning):
    """Fine-tuning of what connects vision and text. Raises :class:`UnsupportedModel` where the
    family names nothing.
    """

    name = "ft-m"
    paper = PAPERS["ft-m"]
    Config = FTMConfig

    def __init__(self, vlm: VLM, config: FTMConfig | None = None) -> None:
        super().__init__(vlm, config)
        if not vlm.connector_path:
            raise UnsupportedModel(
                "ft-m needs a module between vision tower and text decoder: none was found"
            )
        connector = vlm.model.get_submodule(vlm.connector_path)
        self.names = [f"{vlm.connector_path}.{name}" for name in changeable(connector)]
        check_changeable(self.start().items())

    def check(self, query: Query) -> None:
        """See :meth:`Editor.check`. Raises :class:`BadInput` for a question without image, too."""
        super().check(query)
        if query.image is None:
            raise BadInput(
                f"ft-m edits what images look like: give the image that '{query.prompt}' is about"
            )
