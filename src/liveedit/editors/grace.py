"""GRACE: a codebook at one layer; inputs near a key get the value learned there.

Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi: "Aging with GRACE: Lifelong Model Editing with
Discrete Key-Value Adaptors", NeurIPS 2023 (arXiv 2211.11031). With x the input of the feed-forward
network f of layer l at the last prompt token, and codebook entries of key k, value v, radius ε and
label y,

    f(x)  becomes  v_j  with  j = argmin_i ‖x − k_i‖,  if  ‖x − k_j‖ ≤ ε_j         (section 3.2)

An edit (x, y) whose nearest entry j is at the distance d                            (Algorithm 1)

    adds    (x, v, ε_init, y)                          if there is none or d > ε_init + ε_j
    expands ε_j to max(ε_j, d)                         else, if y = y_j
    splits  ε_j = d/2, and adds (x, v, d/2, y)         else

v minimises −(1/|o|) Σ_t log f(o_t | v, p, o_<t), by Adam. Rate, steps and ε_init are EasyEdit's.

Departures from the authors' code and from EasyEdit's, which continues it:

- f is the whole network; in the authors' code it is one matrix, and in EasyEdit the last one of
  Llama's network. So keys are here as wide as the residual stream, for every model.
- v replaces the output at each row's own last prompt token, and generated tokens are left alone.
  The authors' setting for decoders replaces all tokens before that one, and EasyEdit replaces the
  position of the *last edit*, which is wrong for a query of another length.
- v starts at f(x), an option in the authors' code, instead of noise.
- Labels are equal if their texts are. In the authors' code they are equal if the means of the label
  ids are, and every prompt token counts there as −100. EasyEdit compares the label of another
  entry.
- An edit expands an entry to slightly more than d, by the rounding error of x; otherwise rounding
  would decide whether the edit's own input is within the radius.
- Expanding keeps the entry's value, which the authors' code trains further. So every edit can be
  taken back: the remaining ones are inserted again, in order.
- A split sets both radii to d/2 as in the paper; the authors' code subtracts 1e-5 from the older.
- If the same input is edited again (d = 0, so that a split is impossible), the later edit replaces
  the earlier one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor
from liveedit.editors.common.branch import Recorder
from liveedit.editors.common.codebook import CodebookPatch, fit_outputs
from liveedit.editors.common.examples import chunks
from liveedit.models.batch import Batch, Scores
from liveedit.models.feed_forward import FeedForward, feed_forward, highest_layer
from liveedit.models.vlm import VLM
from liveedit.settings import Index, NotNegative, Positive
from liveedit.types import Query

__all__ = ["GRACE", "GraceConfig", "GracePatch"]

MERGED = -1.0
"""The radius of an edit whose input is answered by another entry: no input is within it."""

SAME = 1e-4
"""Keys that differ by less than this share of their length, by rounding, are of one input."""


@dataclass(frozen=True)
class GraceConfig:
    """Settings of GRACE; the defaults are EasyEdit's.

    Arguments:
        layer: Decoder layer of the codebook, from 0; ``None``: after two thirds of the layers.
        lr: Learning rate of Adam.
        steps: Steps for each value.
        radius: Initial radius ε_init of an entry.
        eos: Whether every target ends with the end-of-text token.
    """

    layer: Index | None = None
    lr: Positive = 1.0
    steps: Index = 20
    radius: NotNegative = 1.0
    eos: bool = False


class GracePatch(CodebookPatch):
    """The codebook.

    ``bank`` holds ``key`` and ``value`` (E, D) and ``label`` (E,), a hash of the target; ``radii``
    (E,) follow from them.
    """

    FILE = "grace.safetensors"
    editor: "GRACE"

    def __init__(self, editor: Editor, bank: Bank, radii: Tensor | None = None) -> None:
        super().__init__(editor, bank)
        self.reads = self.editor.network.reads
        self.writes = self.editor.network.writes
        self.radii = codebook(bank, self.editor.config.radius) if radii is None else radii

    def with_ledger(self, ledger: Bank, superseded: Tensor | None = None) -> Self:
        """See :meth:`BankPatch.with_ledger`.

        Superseded edits leave the codebook, because others may be merged into them.
        """
        made = super().with_ledger(ledger, superseded)
        if not bool(made.not_superseded.all()):
            rows = made.not_superseded.nonzero()[:, 0].cpu()
            made.radii = torch.full((len(made),), MERGED)
            made.radii[rows] = codebook(made.bank.select(rows), self.editor.config.radius)
        return made

    def find(self, x: Tensor, batch: Batch) -> Tensor:
        """See :meth:`CodebookPatch.find`: the entry whose radius the last prompt token is in."""
        distance = self.distance(x[torch.arange(len(x)), batch.last_prompt_tokens()].float())
        if batch.wants_scores:
            batch.scores[self] = self.scores(distance)
        return self.nearest(distance)

    def written(self, output: Tensor, values: Tensor) -> Tensor:  # noqa: ARG002
        """See :meth:`CodebookPatch.written`: the values."""
        return values

    def distance(self, x: Tensor) -> Tensor:
        """The distance (B, E) of each ``x`` (B, D) from each key."""
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x, self.bank["key"], compute_mode=exact)

    def scores(self, distance: Tensor) -> list[Scores]:
        """How near each query came, given :meth:`distance`: its negative, against minus the radius.

        An input at the very radius fires.
        """
        radii = self.radii.to(distance)
        above = (radii - distance).masked_fill(radii < 0, -torch.inf)
        return Scores.of_rows(above, question=-distance, question_threshold=-radii)

    def nearest(self, distance: Tensor) -> Tensor:
        """The entry (B,) within whose radius each query is, -1 for none, given :meth:`distance`."""
        radii = self.radii.to(distance.device)
        near = self.in_force((distance <= radii) & (radii >= 0))
        least, entry = distance.masked_fill(~near, torch.inf).min(1)
        return torch.where(least < torch.inf, entry, -1)


class GRACE(BankEditor[GracePatch]):
    """The codebook's editor.

    Raises :class:`UnsupportedModel` where the layer has no feed-forward network of a known form.
    """

    name = "grace"
    Config = GraceConfig
    patch_class = GracePatch
    config: GraceConfig

    def __init__(self, vlm: VLM, config: GraceConfig | None = None) -> None:
        super().__init__(vlm, config)
        layer = self.config.layer
        if layer is None:
            layer = highest_layer(vlm, 2 * vlm.num_layers // 3)
        self.network: FeedForward = feed_forward(vlm, layer)

    def empty(self) -> GracePatch:
        """A patch without edits."""
        none = torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        return GracePatch(self, Bank({"key": none, "value": none, "label": none[:, 0].long()}))

    def extended(self, patch: GracePatch, queries: Sequence[Query]) -> GracePatch:
        """See :meth:`BankEditor.extended`. Values are independent, so they are learned together."""
        bank = patch.bank
        radii = patch.radii
        for chunk in chunks(queries):
            keys, values = self.learn(chunk)
            for query, key, value in zip(chunk, keys, values, strict=True):
                label = torch.tensor([label_of(query.target)], device=key.device)
                all_keys = torch.cat([bank["key"], key[None]])
                labels = torch.cat([bank["label"], label])
                radii, merged = insert(all_keys, labels, radii, self.config.radius)
                kept = value if merged is None else bank["value"][merged]
                bank = bank.append({"key": key[None], "value": kept[None], "label": label})
        return GracePatch(self, bank, radii)

    def learn(self, queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, D) of edits."""
        batch = self.vlm.encode(queries, eos=self.config.eos)
        keys, start = self.states(batch)
        place = self.network
        values = fit_outputs(
            self.vlm, batch, place.writes, place.layer, start, self.config.lr, self.config.steps
        )
        return keys, values

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Input x and output f(x) of the network at the last prompt tokens, each (B, D)."""
        record = Recorder(self.network.reads, self.network.writes)
        with self.vlm.patched(record):
            self.vlm.hidden(batch, self.network.layer)
        columns = batch.last_prompt_tokens()
        rows = torch.arange(len(batch), device=columns.device)
        x = record.seen[self.network.reads][rows, columns].float()
        output = record.seen[self.network.writes][rows, columns].float()
        return x, output


def codebook(bank: Bank, start: float) -> Tensor:
    """The radii (E,) after inserting all edits of a bank in order; ``start`` is ε_init."""
    radii = torch.empty(0)
    for number in range(len(bank)):
        radii, _ = insert(bank["key"][: number + 1], bank["label"], radii, start)
    return radii


def insert(keys: Tensor, labels: Tensor, radii: Tensor, start: float) -> tuple[Tensor, int | None]:
    """Insert the last of ``keys`` (E, D) into the codebook (Algorithm 1).

    ``radii`` (E-1,) are those before, ``start`` is ε_init. Returns the radii (E,) and the entry
    that was expanded, if one was.
    """
    new = len(keys) - 1
    known = radii
    radii = torch.cat([known, torch.tensor([start])])
    if not bool((known >= 0).any()):
        return radii, None
    distance = torch.linalg.vector_norm(keys[:new] - keys[new], dim=1).cpu()
    distance = distance.masked_fill(known < 0, torch.inf)
    d = float(distance.min())
    near = int(distance.argmin())
    rounding = SAME * float(keys[new].norm())
    if d > start + float(radii[near]):
        return radii, None
    if int(labels[near]) == int(labels[new]):
        radii[near] = max(float(radii[near]), d + rounding)
        radii[new] = MERGED
        return radii, near
    if d < rounding:
        radii[new] = radii[near].clone()
        radii[near] = MERGED
    else:
        radii[near] = d / 2
        radii[new] = d / 2
    return radii, None


def label_of(target: str) -> int:
    """A number for a target, the same for the same text."""
    return int.from_bytes(sha256(target.strip().encode()).digest()[:7], "big")
