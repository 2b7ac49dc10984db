"""LocFT-BF: fine-tune one matrix on all edits together, breadth first.

Yang, Tang, Zang, Su, Cao, Wang, Shen, Cheng, Sun: "Fine-tuning Done Right in Model Editing", ICLR
2026 (arXiv 2509.22072). Released code: github.com/ICT-STAR/LocFT, commit 51db785. For edits
(v_i, p_i, o_i)

    minimise  Σ_i −(1/|o_i|) Σ_t log f(o_i,t | v_i, p_i, o_i,<t)  over one down projection

by Adam: in each epoch the edits are shuffled and cut into mini-batches, and each takes one step.
FT-L and FT-M go depth first instead, one edit until it is learnt and then the next. A mini-batch
whose loss is below ``stop`` takes no step, and training ends with an epoch whose mean loss is.
Targets end with the end-of-text token, without which, the authors say, an edited model goes on
after its answer. Learning rate, epochs and batch are the released ones; their layers are 22 of
LLaMA-3's 32 and 6 of Qwen2.5's 28.

It sees all edits at once, so it is an upper line for fine-tuning rather than a lifelong method:

- The patch keeps the hidden states of its edits below the layer. Edits that join start the training
  again, on all edits and from the model's own weights. So edits made one by one and together are
  the same, and n edits made one by one cost n trainings.
- Departure: a mini-batch goes through the model in parts, whose gradients are added up, so that
  memory does not grow with its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from liveedit.editors.base import Editor
from liveedit.editors.common.examples import chunks
from liveedit.editors.common.fine_tuning import WeightsPatch
from liveedit.editors.common.losses import nll
from liveedit.editors.common.open_rows import open_rows, open_values
from liveedit.models.batch import HiddenBatch
from liveedit.models.feed_forward import down_projection, highest_layer
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed
from liveedit.types import Query

__all__ = ["LocFT", "LocFTConfig"]

TOGETHER = 16
"""Rows of a mini-batch that go through the model together."""


@dataclass(frozen=True)
class LocFTConfig:
    """Settings of LocFT-BF; the defaults are the released ones.

    Arguments:
        layer: Decoder layer whose down projection is trained, from 0; ``None``: after two thirds of
            the layers.
        lr: Learning rate of Adam.
        epochs: Maximum number of passes over all edits.
        batch: Edits of a mini-batch.
        stop: Loss below which a mini-batch takes no step, and training ends after an epoch.
        eos: Whether every target ends with the end-of-text token.
        seed: Seed of the order of the edits.
    """

    layer: Index | None = None
    lr: Positive = 5e-4
    epochs: Index = 25
    batch: Count = 100
    stop: NotNegative = 1e-2
    eos: bool = True
    seed: Seed = 0


class LocFTPatch(WeightsPatch):
    """``values`` are the matrix and, under names that begin with ``open.``, the edits' states."""

    FILE = "locft.safetensors"
    editor: "LocFT"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        name = self.editor.matrix
        return {name: self.values[name]} if len(self) else {}


class LocFT(Editor[LocFTPatch]):
    """The editor.

    Raises :class:`UnsupportedModel` where the layer has no down projection for every token.
    """

    name = "locft-bf"
    Config = LocFTConfig
    config: LocFTConfig

    def __init__(self, vlm: VLM, config: LocFTConfig | None = None) -> None:
        super().__init__(vlm, config)
        layer = self.config.layer
        if layer is None:
            layer = highest_layer(vlm, 2 * vlm.num_layers // 3)
        self.below = layer - 1
        self.matrix = f"{vlm.decoder_path}.{down_projection(vlm, layer)}.weight"
        check_changeable([(self.matrix, vlm.parameter(self.matrix))])

    def load_patch(self, folder: Path) -> LocFTPatch:
        """See :meth:`Editor.load_patch`."""
        return LocFTPatch.load(self, folder)

    def edit(self, queries: Sequence[Query], patch: LocFTPatch | None = None) -> LocFTPatch:
        """See :meth:`Editor.edit`. All edits are trained together, those of ``patch`` again."""
        self.validate(queries, patch)
        if patch is None:
            patch = LocFTPatch(self, {}, 0)
        if not queries:
            return patch
        rows = open_rows(patch.values)
        for query in queries:
            batch = self.vlm.encode([query], eos=self.config.eos)
            rows.append(self.vlm.hidden(batch, self.below))
        values = {self.matrix: self.train(rows)} | open_values(HiddenBatch.stack(rows))
        return LocFTPatch(self, values, len(rows))

    @torch.enable_grad()
    def train(self, rows: Sequence[HiddenBatch]) -> Tensor:
        """The matrix, in float32, trained on the edits ``rows``, each a batch of one."""
        weight = self.vlm.parameter(self.matrix).detach().float().clone().requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=self.config.lr)
        generator = torch.Generator().manual_seed(self.config.seed)
        for _ in range(self.config.epochs):
            order = torch.randperm(len(rows), generator=generator).tolist()
            total = 0.0
            for numbers in chunks(order, self.config.batch):
                batch = [rows[number] for number in numbers]
                total += len(batch) * self.step(batch, weight, optimizer)
            if total / len(rows) < self.config.stop:
                break
        return weight.detach()

    def step(self, batch: Sequence[HiddenBatch], weight: Tensor, optimizer: Optimizer) -> float:
        """Take one step on a mini-batch, unless its loss is below ``config.stop``; that loss."""
        optimizer.zero_grad()
        moving = WeightsPatch(self, {self.matrix: weight}, 1)
        total = 0.0
        for part in chunks(batch, TOGETHER):
            hidden = HiddenBatch.stack(part)
            with self.vlm.patched(moving):
                logits = self.vlm.resume(self.below, hidden, hidden.answer_positions())
            target = hidden.answer_tokens().to(logits.device)
            each = nll(logits, target, hidden.answer_rows().to(logits.device), len(part))
            loss = each.sum() / len(batch)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        if total >= self.config.stop:
            optimizer.step()
        return total
