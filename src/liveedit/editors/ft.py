"""FT-L and FT-M: fine-tune one part of the model on each edit, one after another.

The baselines of Chen et al. (LiveEdit, CVPR 2025) and of Huang et al. (VLKEB, NeurIPS 2024, where
they are called FT (LLM) and FT (Vis)). For an edit (v, p, o)

    minimise  −(1/|o|) Σ_t log f(o_t | v, p, o_<t)  over the weights, by AdamW, until below ``stop``

FT-L trains the MLP of the last decoder layer, FT-M the vision-language connector: the projector of
LLaVA, the Q-Former of BLIP-2, the merger of Qwen2-VL. The defaults are those released with
LiveEdit: only the down projection of the MLP (OPT: ``fc2``; in a mixture of experts that of the
shared expert, or those of all experts), learning rate 1e-3, 25 steps, no weight decay. VLKEB's form
trains the whole MLP (``weights="mlp"``; its files leave out the gate for LLaVA), with a rate of
1e-4 or 2e-4 and 10 to 20 steps.

Computation that does not depend on the trained weights is done once for each edit: for FT-L all
layers below the last, so that a step costs that layer and the output embedding; for FT-M the vision
tower. The weights in training are float32, whatever the model's dtype. FT-M changes how images are
represented, so a question without image keeps its answer, and cannot be edited.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from liveedit.editors.common.fine_tuning import FineTuningEditor, WeightsPatch
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.feed_forward import (
    feed_forward,
    highest_layer,
    matrices,
    stacked_down_projections,
)
from liveedit.models.patch import INPUT
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.models.wrappers import changeable
from liveedit.settings import Index, NotNegative, Positive
from liveedit.types import Query

__all__ = ["FTL", "FTM", "FTLConfig", "FTMConfig"]


@dataclass(frozen=True)
class FTMConfig:
    """Settings of FT-M; the defaults are those released with LiveEdit.

    Arguments:
        lr: Learning rate of AdamW.
        steps: Maximum number of steps per edit.
        stop: Loss below which an edit ends.
        eos: Whether every target ends with the end-of-text token.
    """

    lr: Positive = 1e-3
    steps: Index = 25
    stop: NotNegative = 1e-2
    eos: bool = False


@dataclass(frozen=True)
class FTLConfig(FTMConfig):
    """Settings of FT-L: those of FT-M, and the weights that are trained.

    Arguments:
        weights: The ``"down"`` projection or the whole ``"mlp"`` of the last layer.
    """

    weights: Literal["down", "mlp"] = "down"


class ParameterFineTuning(FineTuningEditor[WeightsPatch]):
    """Trains by AdamW the parameters ``names``, as the Hugging Face model calls them."""

    names: list[str]
    config: FTMConfig

    def start(self) -> dict[str, Tensor]:
        """See :meth:`FineTuningEditor.start`: the model's own."""
        return {name: self.vlm.parameter(name) for name in self.names}

    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """See :meth:`FineTuningEditor.optimizer`."""
        return torch.optim.AdamW(values, lr=self.config.lr, weight_decay=0.0)


class FTL(ParameterFineTuning):
    """Fine-tuning of the last layer's MLP.

    Raises :class:`UnsupportedModel` where that layer has no MLP of a known form.
    """

    name = "ft-l"
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
        """The names of the down projections.

        If there is no separate one, it is the parameter that stacks those of all experts.
        """
        found = matrices(self.vlm, layer, self.vlm.module_names.down)
        if found:
            return [f"{name}.weight" for name in found]
        return stacked_down_projections(self.vlm, layer)

    def mlp(self, layer: int) -> list[str]:
        """All matrices of the MLP."""
        network = feed_forward(self.vlm, layer)
        ends = (network.reads.removesuffix(INPUT), network.writes)
        within = tuple(f"{path}." for path in ends)
        names = [f"layers.{layer}.{name}" for name in changeable(self.vlm.layers[layer])]
        parameters = dict(self.vlm.decoder.named_parameters())
        return [name for name in names if name.startswith(within) and parameters[name].ndim > 1]

    @contextmanager
    def answering(self, query: Query) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
        """See :meth:`FineTuningEditor.answering`. The layers below the last run once."""
        hidden = self.vlm.hidden(self.vlm.encode([query], eos=self.config.eos), self.below)
        positions = hidden.answer_positions()
        yield lambda: self.vlm.resume(self.below, hidden, positions), hidden.answer_tokens()


class FTM(ParameterFineTuning):
    """Fine-tuning of the vision-language connector.

    Raises :class:`UnsupportedModel` where the family names none.
    """

    name = "ft-m"
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
                "ft-m changes how images are represented: give the image that "
                f"'{query.prompt}' is about"
            )
