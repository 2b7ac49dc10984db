"""HoReN: a codebook of unit keys; a prompt settles by a Hopfield step, then finds the nearest key.

Fang, Xie, Ran: "HoReN: Normalized Hopfield Retrieval for Large-Scale Sequential Model Editing",
2026 (arXiv 2605.08143). With x_t the input of the down projection f of one layer at prompt token t,
K (E, H) the keys of the edits and v_j their values, the query is the direction of the mean over the
last half of the prompt tokens; a damped step of a modern Hopfield network moves it towards the
stored keys; and if the nearest key is near enough, its value is added at the last prompt token:

    q = n(mean_t x_t),      n(z) = z / ‖z‖
    q ← n((1 − α) q + α n(Kᵀ softmax(β K q)))                             ``steps`` times
    f(x)  becomes  f(x) + v_j  with  j = argmax_i k_i·q,  if  k_j·q > threshold

The key of an edit is the q of its own prompt before any step. v minimises
−(1/|o|) Σ_t log f(o_t | p, o_<t), by Adam. α, β, steps, threshold and the rate are those released
for Llama 3 8B (github.com/ha11ucin8/HoReN, commit 38bbf34); the equations are read from that code.

Departures from the authors' code:

- Of a prompt with an image, the tokens that are averaged are the last half of those after the
  image, whose states have seen it. ``tokens="all"`` takes the last half of all, as released.
- Every edit has a key and a value of its own. In the authors' code an edit whose prompt finds an
  entry with the same label has none, and trains that entry's value further; labels are compared
  there by the mean of their token ids. So every edit can be taken back, and none depends on others.
- v starts at 0 instead of uniform noise, so that editing is deterministic.
- There is no random key for "no edit": nothing fires below the threshold, with or without it.
- v goes to each row's own last prompt token, and generated tokens are left alone; the authors' code
  takes one position for all rows.
- The released variant whose value is a low-rank matrix is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor
from liveedit.editors.common.branch import Recorder
from liveedit.editors.common.codebook import CodebookPatch, fit_outputs
from liveedit.editors.common.examples import chunks
from liveedit.models.batch import Batch, Scores, Spans
from liveedit.models.feed_forward import down_projection, highest_layer
from liveedit.models.patch import INPUT
from liveedit.models.vlm import VLM
from liveedit.settings import Index, NotNegative, Positive, Share
from liveedit.types import Query

__all__ = ["HoReN", "HoReNConfig", "HoReNPatch"]

Averaged = Literal["question", "all"]
"""Tokens of a prompt that a key is made of: those after the image, or all."""


@dataclass(frozen=True)
class HoReNConfig:
    """Settings of HoReN; the defaults are those released for Llama 3 8B.

    Arguments:
        layer: Decoder layer of the codebook, from 0; ``None``: after seven eighths of the layers,
            but not the last one (released: 29 of 32).
        lr: Learning rate of Adam.
        fit_steps: Steps for each value.
        tokens: Tokens that a key is made of, ``"question"``: those after the image, or ``"all"``.
        share: Share of these tokens, the last ones, that is averaged.
        beta: Inverse temperature β: how sharply a query is drawn to the nearest keys.
        alpha: Share α of a Hopfield step that is taken.
        steps: Hopfield steps.
        threshold: Cosine of a key and the settled query above which an edit fires.
        eos: Whether every target ends with the end-of-text token.
    """

    layer: Index | None = None
    lr: Positive = 1.0
    fit_steps: Index = 50
    tokens: Averaged = "question"
    share: Share = 0.5
    beta: NotNegative = 20.0
    alpha: Share = 0.1
    steps: Index = 1
    threshold: float = 0.85
    eos: bool = False


class HoReNPatch(CodebookPatch):
    """The codebook: ``bank`` holds ``key`` (E, H) and ``value`` (E, D), H the inner width."""

    FILE = "horen.safetensors"
    editor: "HoReN"

    def __init__(self, editor: Editor, bank: Bank) -> None:
        super().__init__(editor, bank)
        self.reads = self.editor.down + INPUT
        self.writes = self.editor.down

    def find(self, x: Tensor, batch: Batch) -> Tensor:
        """See :meth:`CodebookPatch.find`."""
        config = self.editor.config
        cosine = self.cosine(self.editor.keys(x, batch.spans))
        fires = self.in_force(cosine > config.threshold)
        most, entry = cosine.masked_fill(~fires, -torch.inf).max(1)
        if batch.wants_scores:
            least = torch.full_like(cosine, config.threshold)
            batch.scores[self] = Scores.of_rows(
                cosine - least, question=cosine, question_threshold=least
            )
        return torch.where(most > -torch.inf, entry, -1)

    def cosine(self, q: Tensor) -> Tensor:
        """The cosine (B, E) of each query (B, H), settled among the keys, with each key."""
        keys = self.bank["key"]
        config = self.editor.config
        patterns = keys[self.not_superseded]
        return settled(q, patterns, config.beta, config.alpha, config.steps) @ keys.T

    def written(self, output: Tensor, values: Tensor) -> Tensor:
        """See :meth:`CodebookPatch.written`: the outputs with the values added."""
        return output + values


class HoReN(BankEditor[HoReNPatch]):
    """The codebook's editor.

    Raises :class:`UnsupportedModel` where the layer has no down projection for every token.
    """

    name = "horen"
    Config = HoReNConfig
    patch_class = HoReNPatch
    config: HoReNConfig

    def __init__(self, vlm: VLM, config: HoReNConfig | None = None) -> None:
        super().__init__(vlm, config)
        layer = self.config.layer
        if layer is None:
            layer = highest_layer(vlm, min(7 * vlm.num_layers // 8, vlm.num_layers - 2))
        self.layer: int = layer
        self.down = down_projection(vlm, layer)

    def empty(self) -> HoReNPatch:
        """A patch without edits."""
        matrix = self.vlm.decoder.get_submodule(self.down)
        key = torch.empty(0, int(matrix.in_features), device=self.vlm.device)
        value = torch.empty(0, int(matrix.out_features), device=self.vlm.device)
        return HoReNPatch(self, Bank({"key": key, "value": value}))

    def extended(self, patch: HoReNPatch, queries: Sequence[Query]) -> HoReNPatch:
        """See :meth:`BankEditor.extended`. Edits are independent, so they are learned together."""
        bank = patch.bank
        for chunk in chunks(queries):
            bank = bank.append(self.entries(chunk))
        return HoReNPatch(self, bank)

    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """``key`` (B, H) and ``value`` (B, D) of edits."""
        config = self.config
        batch = self.vlm.encode(queries, eos=config.eos)
        record = Recorder(self.down + INPUT, self.down)
        with self.vlm.patched(record):
            self.vlm.hidden(batch, self.layer)
        columns = batch.last_prompt_tokens()
        rows = torch.arange(len(batch), device=columns.device)
        start = record.seen[self.down][rows, columns].float()
        outputs = fit_outputs(
            self.vlm, batch, self.down, self.layer, start, config.lr, config.fit_steps
        )
        return {
            "key": self.keys(record.seen[self.down + INPUT], batch.spans),
            "value": outputs - start,
        }

    def keys(self, x: Tensor, spans: Sequence[Spans]) -> Tensor:
        """The key (B, H) of each prompt, given the down projection's inputs ``x`` (B, T, H)."""
        means = [
            x[row, slice(*self.averaged(span))].float().mean(0) for row, span in enumerate(spans)
        ]
        return F.normalize(torch.stack(means), dim=1)

    def averaged(self, span: Spans) -> tuple[int, int]:
        """The tokens of a row that its key is the mean of, as a half-open range."""
        first, stop = span.prompt
        if self.config.tokens == "all":
            first = span.start
        return stop - max(1, ceil(self.config.share * (stop - first))), stop


def settled(q: Tensor, keys: Tensor, beta: float, alpha: float, steps: int) -> Tensor:
    """The unit queries (B, H) after so many damped Hopfield steps among ``keys`` (E, H)."""
    for _ in range(steps):
        pattern = F.normalize((beta * q @ keys.T).softmax(1) @ keys, dim=1)
        q = F.normalize((1 - alpha) * q + alpha * pattern, dim=1)
    return q
