"""GRACE: a codebook at one layer; inputs near a key get the value learnt there.

Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi: "Aging with GRACE: Lifelong Model Editing with
Discrete Key-Value Adaptors", NeurIPS 2023 (arXiv 2211.11031). With x what the feed-forward network
f of layer l takes at the last prompt token, and codebook entries of key k, value v, radius ε and
label y,

    f(x)  becomes  v_j  with  j = argmin_i ‖x − k_i‖,  if  ‖x − k_j‖ ≤ ε_j                      (section 3.2)

An edit (x, y) whose nearest entry j is at the distance d
(Algorithm 1)

    adds    (x, v, ε_init, y)                          if there is none or d > ε_init + ε_j
    expands ε_j to max(ε_j, d)                         else, if y = y_j
    splits  ε_j = d/2, and adds (x, v, d/2, y)         else

v is what minimises −(1/|o|) Σ_t log f(o_t | v, p, o_<t), found by Adam. Rate, steps and ε_init are
EasyEdit's.

Departures from the authors' code and from EasyEdit's, which carries it on. f is the whole network,
theirs one matrix of it, Llama's last: here keys are as wide as the stream, for every model. v
stands at each row's own last prompt token, and decoded tokens are left alone; the authors' setting
for decoders replaces all tokens before that one, and EasyEdit replaces where the *last edit* had
it, wrong for any query of another length. v starts at f(x), an option of theirs, in place of noise.
Labels are the same if the text is; theirs are the same if the mean of the label ids is, to which
every prompt token adds −100, and EasyEdit compares those of another entry. An edit expands an entry
by the rounding of x more than d: at d its own input would be within the radius or not, as the
rounding falls. It keeps the entry's value for itself, where theirs trains that further, so that
every edit can be taken back: what remains is inserted anew, in order. A split leaves both at d/2,
the paper's, theirs the older 1e-5 less. Where one input is edited again, which would split a
distance of 0, the later edit takes the place of the earlier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch, PoolEditor
from liveedit.editors.common.feed_forward import (
    FeedForward,
    Recorder,
    feed_forward,
    highest_layer,
    last_prompt_tokens,
)
from liveedit.models.batch import Batch
from liveedit.models.patch import Patch, SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Index, NotNegative, Positive
from liveedit.types import Query

__all__ = ["GRACE", "GraceConfig", "GracePatch"]

CHUNK = 32
"""Edits whose values are learnt together. They do not depend on one another."""

MERGED = -1.0
"""The radius of an edit whose input another entry answers: no input is within it."""

SAME = 1e-4
"""Keys are of one input if they differ by less than this share of their length, which is rounding.
"""


@dataclass(frozen=True)
class GraceConfig:
    """Settings; the defaults are EasyEdit's. ``layer`` counts from 0, ``None`` is after two thirds
    of the layers.

    ``radius`` is ε_init. ``eos`` ends every target with the end of text.
    """

    layer: Index | None = None
    lr: Positive = 1.0
    steps: Index = 20
    radius: NotNegative = 1.0
    eos: bool = False


class GracePatch(BankPatch):
    """``bank`` holds ``key`` and ``value`` (E, D) and ``label`` (E,), a hash of the target;
    ``radii`` (E,) follow.
    """

    FILE = "grace.safetensors"
    editor: "GRACE"

    def __init__(self, editor: Editor, bank: Bank, radii: Tensor | None = None) -> None:
        super().__init__(editor, bank)
        self.radii = codebook(bank, self.editor.config.radius) if radii is None else radii

    def listed(self, ledger: Bank) -> Self:
        """See :meth:`BankPatch.listed`. What is superseded is no part of the codebook: others may
        be merged into it.
        """
        made = super().listed(ledger)
        if not bool(made.standing.all()):
            rows = made.standing.nonzero()[:, 0].cpu()
            made.radii = torch.full((len(made),), MERGED)
            made.radii[rows] = codebook(made.bank.select(rows), self.editor.config.radius)
        return made

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The sites are what the network takes and what it adds to the
        stream.
        """
        if not len(self):
            return {}
        work = Lookup(self, batch)
        return {self.editor.place.reads: work.look, self.editor.place.writes: work.write}

    def nearest(self, x: Tensor) -> Tensor:
        """The entry (B,) that each ``x`` (B, D) is within the radius of, -1 for none."""
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(x, self.bank["key"], compute_mode=exact)
        radii = self.radii.to(x.device)
        near = self.taking_part((distance <= radii) & (radii >= 0))
        least, entry = distance.masked_fill(~near, torch.inf).min(1)
        return torch.where(least < torch.inf, entry, -1)


class Lookup:
    """A patch at work on one batch: finds each row's entry, and writes its value at the row's last
    prompt token.

    Decoded tokens follow from that one, and are left alone. ``start`` tokens of the rows stand
    before those of a call.
    """

    def __init__(self, patch: GracePatch, batch: Batch) -> None:
        self.patch, self.batch, self.places = patch, batch, last_prompt_tokens(batch)
        self.entry: Tensor | None = None
        self.start = 0

    def look(self, x: Tensor) -> Tensor:
        """Find on the prompts (B, T, D) the entry that each row is within the radius of."""
        if self.entry is None:
            self.entry = self.patch.nearest(x[torch.arange(len(x)), self.places].float())
            self.batch.fired[self.patch] = [
                [(entry, 1.0)] if entry >= 0 else [] for entry in self.entry.tolist()
            ]
        return x

    def write(self, output: Tensor) -> Tensor:
        """The output (B, T', D) with the values; the very same object where no last prompt token of
        such a row is.
        """
        assert self.entry is not None
        places = self.places - self.start
        here = (places >= 0) & (places < output.shape[1])
        rows = (here & (self.entry >= 0)).nonzero()[:, 0]
        if not len(rows):
            return output
        values = self.patch.bank["value"][self.entry[rows]].to(output.dtype)
        return output.index_put((rows, places[rows]), values)

    def rewind(self, length: int) -> None:
        """Go on behind the first ``length`` tokens of the rows."""
        self.start = length

    def reorder(self, rows: Tensor) -> None:
        """Go on behind other rows: row i behind row ``rows[i]``."""
        rows = rows.to(self.places.device)
        self.places = self.places[rows]
        if self.entry is not None:
            self.entry = self.entry[rows]


class GRACE(PoolEditor):
    """The codebook's editor. Raises :class:`UnsupportedModel` where the layer has no feed-forward
    network.
    """

    name = "grace"
    paper = PAPERS["grace"]
    Config = GraceConfig
    patch_class = GracePatch
    config: GraceConfig

    def __init__(self, vlm: VLM, config: GraceConfig | None = None) -> None:
        super().__init__(vlm, config)
        layer = (
            highest_layer(vlm, 2 * vlm.num_layers // 3)
            if self.config.layer is None
            else self.config.layer
        )
        self.place: FeedForward = feed_forward(vlm, layer)

    def empty(self) -> GracePatch:
        """A patch without edits."""
        none = torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        return GracePatch(self, Bank({"key": none, "value": none, "label": none[:, 0].long()}))

    def extended(self, held: BankPatch, queries: Sequence[Query]) -> GracePatch:
        """See :meth:`PoolEditor.extended`."""
        assert isinstance(held, GracePatch)
        bank, radii = held.bank, held.radii
        for start in range(0, len(queries), CHUNK):
            chunk = queries[start : start + CHUNK]
            keys, values = self.learn(chunk)
            for query, key, value in zip(chunk, keys, values, strict=True):
                label = torch.tensor([label_of(query.target)], device=key.device)
                radii, merged = insert(
                    torch.cat([bank["key"], key[None]]),
                    torch.cat([bank["label"], label]),
                    radii,
                    self.config.radius,
                )
                kept = value if merged is None else bank["value"][merged]
                bank = bank.append({"key": key[None], "value": kept[None], "label": label})
        return GracePatch(self, bank, radii)

    @torch.enable_grad()
    def learn(self, queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, D) of edits."""
        batch, below = self.vlm.encode(queries, eos=self.config.eos), self.place.layer - 1
        record, places = Recorder(self.place.reads, self.place.writes), last_prompt_tokens(batch)
        with self.vlm.patched(record):
            self.vlm.hidden(batch, self.place.layer)
        rows = torch.arange(len(queries), device=places.device)
        keys, start = (
            record.seen[site][rows, places].float()
            for site in (self.place.reads, self.place.writes)
        )
        hidden = self.vlm.hidden(batch, below)
        positions = hidden.answer_positions()
        targets, owner = hidden.labels.roll(-1, 1)[positions], positions.nonzero()[:, 0]
        share = 1.0 / positions.sum(1)[owner]
        values = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([values], lr=self.config.lr)
        trial = Written(self.place.writes, values)
        for _ in range(self.config.steps):
            with self.vlm.patched(trial):
                logits = self.vlm.resume(below, hidden, positions)
            loss = (F.cross_entropy(logits.float(), targets, reduction="none") * share).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return keys, values.detach()


class Written(Patch):
    """Values (B, D) in the place of what the network adds at each row's last prompt token."""

    def __init__(self, site: str, values: Tensor) -> None:
        self.site, self.values = site, values

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        rows, places = (
            torch.arange(len(batch), device=self.values.device),
            last_prompt_tokens(batch),
        )
        return {
            self.site: lambda output: output.index_put((rows, places), self.values.to(output.dtype))
        }


def codebook(bank: Bank, start: float) -> Tensor:
    """The radii (E,) once the edits of a bank are in the codebook, one after the other; ``start``
    is ε_init.
    """
    radii = torch.empty(0)
    for number in range(len(bank)):
        radii, _ = insert(bank["key"][: number + 1], bank["label"], radii, start)
    return radii


def insert(keys: Tensor, labels: Tensor, radii: Tensor, start: float) -> tuple[Tensor, int | None]:
    """The radii (E,) once the last of ``keys`` (E, D) is in the codebook, and the entry it
    expanded, if it did.

    ``radii`` (E-1,) are those before it, ``start`` is ε_init.
    """
    new = len(keys) - 1
    if not bool((radii >= 0).any()):
        return torch.cat([radii, torch.tensor([start])]), None
    distance = (
        torch.linalg.vector_norm(keys[:new] - keys[new], dim=1)
        .cpu()
        .masked_fill(radii < 0, torch.inf)
    )
    d, near = float(distance.min()), int(distance.argmin())
    radii, rounding = torch.cat([radii, torch.tensor([start])]), SAME * float(keys[new].norm())
    if d > start + float(radii[near]):
        return radii, None
    if int(labels[near]) == int(labels[new]):
        radii[near], radii[new] = max(float(radii[near]), d + rounding), MERGED
        return radii, near
    if d < rounding:
        radii[new], radii[near] = radii[near].clone(), MERGED
    else:
        radii[near] = radii[new] = d / 2
    return radii, None


def label_of(target: str) -> int:
    """A number for a target, the same for the same text."""
    return int.from_bytes(sha256(target.strip().encode()).digest()[:7], "big")
