"""LiveEdit: one low-rank expert an edit, found by what an input shows and asks, added at one layer.

Chen, Wang, Wang, Zhang, Li, He: "Lifelong Knowledge Editing for Vision Language Models with Low-Rank
Mixture-of-Experts", CVPR 2025 (arXiv 2411.15432). Released code: github.com/qizhou000/LiveEdit, commit b46217b.

    (1, 2)   U, V = f_eg(h_v ⊕ h_p ⊕ h_o)                     nets.ReleasedGenerator
    (3, 4)   φ, ψ = f_fe(h_v, h_p), two sets of weights        nets.FeatureExtractor, nets.InputExtractor
    (5)      keep the experts with ⟨φ̄, φ̂⟩ > ⟨φ̄, φ̄_Θ⟩          routing.LiveEditPatch.route
    (6)      h + Σ w ρ(h Uᵀ) V                                 nets.residual
    (7)      w = σ(z) softmax(z), z = ⟨ψ̄, ψ̂⟩, over those kept  nets.soft_routing
    (8-16)   training                                          LiveEdit.replay, losses

Where paper and released code differ the code is followed, because the published numbers were made with it and it is
what can be compared number for number:

    point                     paper                        released, and here
    before U                  nothing                      LayerNorm
    attention                 one head, no scale or bias   8 heads, 1/√d_head, biases, no output projection
    inner product             over k·d_m, / √d_m           mean over the k vectors, / √d_m
    divergence (11)           KL(base ‖ edited)            KL(edited ‖ base)
    experts mixed (8)         the whole batch's            a random prefix of the batch's, and the own ones
    negative (15)             random from both kinds       the example before in the batch
    candidates (16)           2B, from both kinds          B, one drawn for each example
    positives in (15, 16)     edits and generality         locality probes with themselves too, a third
    hard routing (13)         every locality probe         pairs of strangers, drawn either way round
    reduction (8, 12)         sums over the batch          means; likelihood and divergence also over tokens

Where we leave the released code: training runs the edit layer once (released: its output is fed to it again); logs are
taken of probabilities without adding 1e-8, which the stable forms do not need. ``Config`` opens further ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from liveedit.editors import PAPERS
from liveedit.editors.aligned import AlignedGenerator
from liveedit.editors.bank import Bank
from liveedit.editors.base import Example, TrainableEditor, alone
from liveedit.editors.contrast import contrast
from liveedit.editors.draws import Draws, RowName, draw
from liveedit.editors.losses import absolute_routing, hard_routing, info_nce, kl, nll, relative_routing
from liveedit.editors.nets import (
    FeatureExtractor,
    InputExtractor,
    Part,
    ReleasedGenerator,
    image_and_prompt,
    own_similarity,
    residual,
    similarity,
    soft_routing,
)
from liveedit.editors.routing import LiveEditPatch, pictured, reach
from liveedit.errors import BadInput, Mismatch, UnknownName
from liveedit.models.batch import HiddenBatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

__all__ = ["GENERATORS", "LiveEdit", "LiveEditConfig", "LiveEditPatch"]

GENERATORS: dict[str, type[nn.Module]] = {"released": ReleasedGenerator, "aligned": AlignedGenerator}
"""Expert generators by name. Each is made from (D, d_m, heads, rank, scale) and maps the edits' HiddenBatch and the
model's output embedding (V, D) to U and V, each (B, r, D)."""

EDIT = "reliability"
"""The kind of the training rows that are the edits themselves."""
CHUNK = 32
"""Queries that go through the VLM together."""


@dataclass(frozen=True)
class LiveEditConfig:
    """Settings; the defaults are the released ones.

    ``layer`` (from 0) is the decoder layer whose output is edited, ``module_dim`` d_m, ``queries`` the k vectors of a
    feature, ``scale`` the divisor of what the generator puts out. ``eos`` ends every target with the end of text.
    ``negatives`` "released" trains routing on the released pairs, "hard" every query of a batch against every edit of
    it (``contrast.py``). ``shared`` gives the edit side and the input side one extractor of φ, so that an input that
    equals an edit is similar to it from the start. ``generality`` and ``locality`` are the metrics trained on.

    At query time: ``positions`` adds the residual at every position, or from the last prompt token on (in training
    too). ``top_k`` cuts the experts kept (Eq. 5) to the k most similar in ψ, before they are weighed (Eq. 7).
    ``margin`` is added to the sentinel's similarity. ``text_only``: a query without image meets no edit, or it meets
    those with z > 0, that is, with σ(z) above one half.
    """

    module_dim: int = 1024
    heads: int = 8
    rank: int = 4
    queries: int = 4
    scale: float = 5.0
    layer: int = 21
    generator: Literal["released", "aligned"] = "released"
    positions: Literal["all", "answer"] = "all"
    top_k: int | None = None
    margin: float = 0.0
    text_only: Literal["never", "text_key"] = "never"
    eos: bool = False
    negatives: Literal["released", "hard"] = "released"
    shared: bool = False
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("image_locality",)


class LiveEdit(TrainableEditor):
    """The editor: expert generator, feature extractors of both sides, and the LayerNorm before the experts."""

    name = "liveedit"
    paper = PAPERS["liveedit"]
    Config = LiveEditConfig
    query_time = frozenset({"positions", "top_k", "margin", "text_only", "generality", "locality"})
    config: LiveEditConfig

    def __init__(self, vlm: VLM, config: LiveEditConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(c.layer)
        if c.generator not in GENERATORS:
            raise UnknownName(f"unknown generator '{c.generator}': known: {', '.join(GENERATORS)}")
        if c.module_dim % c.heads or vlm.hidden_size % c.heads:
            raise BadInput(f"{c.heads} heads do not divide widths {c.module_dim} and {vlm.hidden_size}: change heads")
        sizes = (vlm.hidden_size, c.module_dim, c.heads)
        self.generator = GENERATORS[c.generator](*sizes, c.rank, c.scale)
        self.edit_features = FeatureExtractor(*sizes, c.queries)
        self.input_features = InputExtractor(*sizes, c.queries, image_tokens(vlm))
        if c.shared:
            self.edit_features.share_vision(self.input_features)
        self.norm = nn.LayerNorm(vlm.hidden_size)
        parts = ("generator", "edit_features", "input_features", "norm")
        self._networks = nn.ModuleDict({name: getattr(self, name) for name in parts})
        self._networks.to(next(vlm.layers[c.layer].parameters()).device)

    def networks(self) -> nn.ModuleDict:
        """Generator, feature extractors and norm."""
        return self._networks

    @property
    def device(self) -> torch.device:
        """Where the networks are: with the edit layer."""
        return self.norm.weight.device

    # Editing

    @torch.no_grad()
    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> "LiveEditPatch":
        """See :meth:`Editor.edit`. An edit without image needs ``text_only="text_key"``; only text meets it."""
        before = self.empty() if patch is None else self._own(patch)
        for query in queries:
            self._check(query)
        bank = before.bank
        for start in range(0, len(queries), CHUNK):
            bank = bank.append(self.experts(self._hidden(queries[start : start + CHUNK])))
        return LiveEditPatch(self, bank)

    def experts(self, hidden: HiddenBatch) -> dict[str, Tensor]:
        """The four tensors of each edit: φ̂ and ψ̂ (B, k, d_m), U and V (B, r, D).

        φ̂ is NaN, which is above no sentinel, where the edit has no image.
        """
        image, prompt = image_and_prompt(hidden.hidden, hidden.spans)
        vision_keys = self.edit_features.vision_key(image, prompt)
        expert_in, expert_out = self._factors(hidden)
        return {
            "vision_keys": vision_keys.masked_fill(~image.mask.any(1)[:, None, None], torch.nan),
            "text_keys": self.edit_features.text_key(prompt),
            "expert_in": expert_in,
            "expert_out": expert_out,
        }

    def empty(self) -> "LiveEditPatch":
        """A patch without edits."""
        c, D = self.config, self.vlm.hidden_size
        key, factor = torch.empty(0, c.queries, c.module_dim), torch.empty(0, c.rank, D)
        none = {"vision_keys": key, "text_keys": key, "expert_in": factor, "expert_out": factor}
        return LiveEditPatch(self, Bank(none))

    def select(self, patch: Patch, index: Sequence[int]) -> "LiveEditPatch":
        """See :meth:`Editor.select`."""
        return self._own(patch).select(index)

    def load_patch(self, folder: Path) -> "LiveEditPatch":
        """See :meth:`Editor.load_patch`."""
        bank, about = Bank.load(Path(folder) / LiveEditPatch.FILE)
        if about.get("model") != self.vlm.fingerprint:
            raise Mismatch(f"the edits in {folder} were made on another model: load that model, or make them again")
        if about.get("editor") != self.fingerprint:
            raise Mismatch(f"the edits in {folder} were made by another editor: load that editor, or make them again")
        return LiveEditPatch(self, bank)

    def _factors(self, hidden: HiddenBatch) -> tuple[Tensor, Tensor]:
        factors: tuple[Tensor, Tensor] = self.generator(hidden, self.vlm.model.get_output_embeddings().weight)
        return factors

    def _check(self, query: Query) -> None:
        if not query.target.strip():
            raise BadInput(f"an edit needs a target: say what '{query.prompt}' is to be answered")
        if query.image is None and self.config.text_only == "never":
            raise BadInput(f"the edit '{query.prompt}' has no image: add one, or set text_only to 'text_key'")

    def _own(self, patch: Patch) -> "LiveEditPatch":
        if not isinstance(patch, LiveEditPatch) or (
            patch.editor is not self and patch.editor.fingerprint != self.fingerprint
        ):
            raise Mismatch("the patch was made by another editor: go on with the editor that made it")
        return patch

    def _hidden(self, queries: Sequence[Query]) -> HiddenBatch:
        if self.vlm.patches:
            raise BadInput("an edit is read off the unedited model: leave `patched` before editing or training")
        return self.vlm.hidden(self.vlm.encode(queries, eos=self.config.eos), self.config.layer)

    # Training

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`.

        Of several probes of a metric the first counts. Those without image are left out unless edits act on them.
        """
        examples = [Example() for _ in cases]
        asked = [(index, *row) for index, case in enumerate(cases) for row in self._rows(case).items()]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            rows = [alone(row) for row in self._hidden([query for *_, query in chunk]).rows()]
            for (index, kind, _), row in zip(chunk, rows, strict=True):
                examples[index].rows[kind] = row
            still = [(examples[index], kind) for index, kind, _ in chunk if kind in self.config.locality]
            bases = self._base([example.rows[kind] for example, kind in still])
            for (example, kind), base in zip(still, bases, strict=True):
                example.base[kind] = base
        return examples

    def _rows(self, case: Case) -> dict[str, Query]:
        """The queries of a case that training reads, by kind."""
        if len(case.edits) != 1 or case.edits[0].image is None:
            raise BadInput(f"case {case.id} is not one edit of what an image shows: LiveEdit cannot be trained on it")
        self._check(case.edits[0])
        kinds = (*self.config.generality, *self.config.locality)
        text = self.config.text_only == "text_key"
        asked = {
            probe.metric: probe.query
            for probe in reversed(case.probes)
            if probe.metric in kinds and (text or probe.query.image is not None)
        }
        return {EDIT: case.edits[0]} | asked

    def _base(self, rows: list[HiddenBatch]) -> list[Tensor]:
        """The unedited log-probabilities (n, V) at the n answer positions of each row."""
        if not rows:
            return []
        hidden = self._onto(HiddenBatch.stack(rows))
        positions = hidden.answer_positions()
        base = self.vlm.resume(self.config.layer, hidden, positions).float().log_softmax(-1).cpu()
        return [part.clone() for part in base.split_with_sizes(positions.sum(1).tolist())]

    def _onto(self, hidden: HiddenBatch) -> HiddenBatch:
        """``hidden`` where the edit layer is, in the VLM's type."""
        hidden = hidden.to(self.device)
        hidden.hidden = hidden.hidden.to(self.vlm.dtype)
        return hidden

    def loss(self, examples: Sequence[Example], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        kinds = [[kind for kind, row in example.rows.items() if pictured(row.spans[0])] for example in examples]
        return self.replay(examples, draw(kinds, EDIT, self.config.generality, self.config.locality, generator))

    def replay(self, examples: Sequence[Example], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch under given draws. All rows go through the VLM's upper layers together, once."""
        kinds = (EDIT, *self.config.generality, *self.config.locality)
        rows = [(kind, j) for kind in kinds for j, example in enumerate(examples) if kind in example.rows]
        hidden = self._onto(HiddenBatch.stack([examples[j].rows[kind] for kind, j in rows]))
        image, prompt = image_and_prompt(hidden.hidden, hidden.spans)
        psi = self.input_features.text_key(prompt)
        mixed = torch.stack([draws.mixed[kind][j] for kind, j in rows]).to(self.device)
        changed = hidden.hidden + self._change(examples, hidden, psi, prompt, mixed).to(hidden.hidden.dtype)
        logits = self.vlm.resume(self.config.layer, replace(hidden, hidden=changed), hidden.answer_positions())
        place = {row: index for index, row in enumerate(rows)}
        terms = output_terms(examples, rows, hidden, logits)
        if self.config.negatives == "hard":
            terms |= self._contrast_terms(image, prompt, psi, rows)
        else:
            terms |= self._routing_terms(image, prompt, psi, place, draws)
        return torch.stack(list(terms.values())).sum(), terms

    def _change(
        self, examples: Sequence[Example], hidden: HiddenBatch, psi: Tensor, prompt: Part, mixed: Tensor
    ) -> Tensor:
        """What the batch's experts add to the rows, (R, T, D), by soft routing alone (after Eq. 8)."""
        U, V = self._factors(self._onto(HiddenBatch.stack([example.rows[EDIT] for example in examples])))
        edits = torch.arange(len(examples), device=self.device)  # the edits themselves are the first rows
        z = similarity(psi, self.edit_features.text_key(prompt.pick(edits)))
        change = residual(self.norm(hidden.hidden.float()), U, V, soft_routing(z, mixed))
        return change if self.config.positions == "all" else change * reach(hidden.spans, change)

    def _routing_terms(
        self, image: Part, prompt: Part, psi: Tensor, place: dict[RowName, int], draws: Draws
    ) -> dict[str, Tensor]:
        """Eq. 13, 15 and 16 on the pairs drawn."""
        bar, hat = self.input_features, self.edit_features
        terms: dict[str, Tensor] = {}
        for name, pairs in (("hard_neighbour", draws.neighbours), ("hard_sentinel", draws.strangers)):
            if not pairs.inputs:
                continue
            a = torch.tensor([place[row] for row in pairs.inputs], device=self.device)
            b = torch.tensor([place[row] for row in pairs.edits], device=self.device)
            own = torch.arange(len(a), device=self.device)
            if pairs is draws.neighbours:
                z = similarity(psi[a], hat.text_key(prompt.pick(b)))
                terms |= {"soft_relative": relative_routing(z), "soft_absolute": absolute_routing(z)}
            phi = bar.vision_key(image.pick(a), prompt.pick(a))
            sentinel = own_similarity(phi, bar.sentinel_key(prompt.pick(a)))
            wanted = own if pairs is draws.neighbours else torch.full_like(own, len(own))
            terms[name] = hard_routing(similarity(phi, hat.vision_key(image.pick(b), prompt.pick(b))), sentinel, wanted)
        return terms

    def _contrast_terms(self, image: Part, prompt: Part, psi: Tensor, rows: Sequence[RowName]) -> dict[str, Tensor]:
        """Every row against every edit of the batch: own ones pass and come first, all others fail."""
        bar, hat = self.input_features, self.edit_features
        edits = torch.tensor([index for index, (kind, _) in enumerate(rows) if kind == EDIT], device=self.device)
        own = torch.tensor([-1 if kind in self.config.locality else j for kind, j in rows], device=self.device)
        phi = bar.vision_key(image, prompt)
        vision = similarity(phi, hat.vision_key(image.pick(edits), prompt.pick(edits)))
        sentinel = own_similarity(phi, bar.sentinel_key(prompt))
        z = similarity(psi, hat.text_key(prompt.pick(edits)))
        mine = own >= 0
        return {
            "hard": contrast(vision, sentinel[:, None], own),
            "soft_absolute": contrast(z, 0.0, own),
            "soft_relative": info_nce(z[mine], own[mine]),
        }


def output_terms(
    examples: Sequence[Example], rows: Sequence[RowName], hidden: HiddenBatch, logits: Tensor
) -> dict[str, Tensor]:
    """Eq. 9-11 by kind: the mean over the rows of a kind of their likelihood or, if they must not change, divergence.

    ``rows`` names the rows of ``hidden``, those of a kind together; ``logits`` (N, V) are the edited ones at its answer
    positions.
    """
    positions = hidden.answer_positions()
    labels, row = hidden.labels.roll(-1, 1)[positions], positions.nonzero()[:, 0]
    terms = {}
    for kind in dict.fromkeys(kind for kind, _ in rows):
        chosen = [index for index, (other, _) in enumerate(rows) if other == kind]
        base = [examples[j].base[kind] for other, j in rows if other == kind and kind in examples[j].base]
        here = (row >= chosen[0]) & (row <= chosen[-1])
        edited, owner, count = logits[here], row[here] - chosen[0], len(chosen)
        if base:
            terms[kind] = kl(edited, torch.cat(base).to(logits.device), owner, count).mean()
        else:
            terms[kind] = nll(edited, labels[here], owner, count).mean()
    return terms


def image_tokens(vlm: VLM) -> int:
    """N_v, how many tokens the VLM gives an image of 336 pixels square."""
    span = vlm.encode([Query("?", image=Image.new("RGB", (336, 336)))]).spans[0].image
    return span[1] - span[0]
