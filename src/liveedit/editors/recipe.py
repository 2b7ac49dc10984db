"""RECIPE: a few continuous prompt vectors an edit, put before a query if a retriever finds that it
belongs to the edit.

Chen, Wang, Zhang, He, Liang, Yang, Gao: "Lifelong Knowledge Editing for LLMs with
Retrieval-Augmented Continuous Prompt Learning", EMNLP 2024 (arXiv 2405.03279). An encoder pools an
edit k, a query q and learned prototype tokens Θ, the knowledge sentinel, to statistics of their
token states: one summary state, mean, greatest and least. From these

    (1)  r_k, r_q, r_Θ     in one space, by perceptrons
    (2)  p_k               n_p vectors of the embeddings' width, by a perceptron from the edit
    (3)  answer(q) = f(p_τ ⊕ q)  if  r_q·r_τ > r_q·r_Θ,  else f(q);    τ = argmax_k r_q·r_k
    (4)  l_rel, l_gen: −log f(answer | p_k ⊕ q);    l_loc: KL to f(q), of queries that the edit is not about
    (5)  l_no = −log softmax of r_q·r_own among all r_k and r_Θ, for queries in scope
    (6)  l_so = −log softmax of r_q·r_Θ among it and all r_k but the own one, for all queries, each counted while its
         share is below ``hinge`` times the next best

    point               paper                      released for VLMs        here
    encoder             RoBERTa, trained           the same                 the VLM's own states, or a pretrained one
    summary state       the pooler's               the same                 the last token's; of an encoder the first's
    query at test       text                       the image is lost        image and text
    retrieval reads     text                       the same                 image and text, or (``scope="text"``) word
                                                                            embeddings, which know of no image
    key of an edit      of question and answer     the same                 of the question, so that a query equal to
                                                                            the edit has its key from the start
    p_k reads           the encoder's states       the same                 word embeddings, or a pretrained encoder
    perceptrons in (1)  one for each side          the same                 one for both
    r                   as it comes                divided by d^¼           of unit length, times a learned scale
    p_k made from       the edit's statistics      the same                 and the embeddings of its answer, linearly
                                                                            mapped: new answers can be written, too
    place of p_k        before the query           before the image         before the text, behind the image
    queries in (5, 6)   one drawn for each edit    the same                 all of the batch, hard ones included

With ``scope="both"`` a query without image never belongs to an edit with one, nor the other way
round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.base import Example, alone
from liveedit.editors.common.attention import Part, cut
from liveedit.editors.common.extractors import SCALE
from liveedit.editors.common.losses import kl, nll
from liveedit.editors.common.retrieval import (
    NEVER,
    NO_TOKEN,
    Asked,
    Memory,
    MemoryEditor,
    MemoryPatch,
    Scope,
    belonging,
    kindred,
    pictured,
)
from liveedit.editors.liveedit.sampling import EDIT, RowName
from liveedit.models import checkpoint
from liveedit.models.batch import Batch
from liveedit.models.vlm import EMBEDDINGS, VLM, reading
from liveedit.settings import Count, Index, Share
from liveedit.types import Query

__all__ = ["Recipe", "RecipeConfig", "RecipePatch", "sentinel_loss", "statistics"]

POOLED = 4
"""Statistics of token states."""


@dataclass(frozen=True)
class RecipeConfig:
    """Settings. What the decoder ``layer`` puts out (:attr:`TrainableEditor.layer`) is pooled.

    ``scope`` is what retrieval may see.

    ``encoder`` is a pretrained encoder of text, by folder or Hugging Face id, which is trained too,
    or ``None`` for the VLM's own states. ``tokens`` is n_p, ``key_dim`` the width of r,
    ``prototypes`` how many tokens the sentinel has. ``margin`` is how far above the sentinel an
    edit has to be. ``written`` is how many examples of a batch train the prompts, ``None`` for all,
    and ``fresh`` the share of these whose answers are exchanged for random tokens, so that the
    prompts learn to tell and not the answers. ``eos`` ends every target with the end of text.
    """

    layer: Index | None = None
    scope: Scope = "both"
    encoder: str | None = None
    tokens: Count = 3
    key_dim: Count = 4096
    prototypes: Count = 10
    hinge: float = 1.2
    margin: float = 0.0
    written: Count | None = None
    fresh: Share = 0.0
    eos: bool = False
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("text_locality", "image_locality")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is read of a query: frozen statistics ``pooled`` (F',), and the ``text`` for a trained
    encoder.
    """

    pooled: Tensor
    text: str


@dataclass(slots=True)
class RecipeExample(Memory):
    """A case: what is ``asked`` in each query. ``inputs`` have places for the prompt before the
    text.
    """

    asked: dict[str, Seen] = field(default_factory=dict)


def statistics(part: Part, summary: Tensor) -> Tensor:
    """(B, 4W) of states (B, n, W): the state at ``summary`` (B,), mean, greatest and least; 0 for a
    row without any.
    """
    real, any_real = part.mask[..., None], part.mask.any(1, keepdim=True)
    states, infinite = part.states, torch.finfo(part.states.dtype).max
    one = states[torch.arange(len(states)), summary]
    mean = (states * real).sum(1) / real.sum(1).clamp(min=1)
    most = states.masked_fill(~real, -infinite).amax(1)
    least = states.masked_fill(~real, infinite).amin(1)
    return torch.cat([one, mean, most, least], 1).masked_fill(~any_real, 0.0)


def last_statistics(part: Part) -> Tensor:
    """The same with each row's last state as its summary, as in a causal model."""
    return statistics(part, (part.mask.sum(1) - 1).clamp(min=0))


def sentinel_loss(similarity: Tensor, sentinel: Tensor, hinge: float) -> Tensor:
    """(6) for ``similarity`` (R, E) to the edits, at the own one ``NEVER``, and ``sentinel`` (R,)
    to r_Θ.
    """
    share = torch.cat([sentinel[:, None], similarity], 1).softmax(1)
    counted = share[:, 0] < hinge * share[:, 1:].amax(1)
    loss = -torch.cat([sentinel[:, None], similarity], 1).log_softmax(1)[:, 0]
    return (loss * counted).sum() / counted.sum().clamp(min=1)


class Perceptron(nn.Module):
    """x + ρ(W₂ x) with x = W₁ LN(s), from statistics s (B, F) to (B, d)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(x))
        return x + F.relu(self.second(x))


class Retriever(Perceptron):
    """(1) for edits, queries and the sentinel, whose prototype tokens it holds for each source of
    states by its width.

    r (B, d) has the length at which an inner product is the learned scale times the cosine.
    """

    def __init__(self, widths: Sequence[int], width: int, prototypes: int) -> None:
        super().__init__(POOLED * sum(widths), width)
        self.scale = nn.Parameter(torch.tensor(log(SCALE)))
        self.prototypes = nn.ParameterList(
            [0.1 * torch.randn(1, prototypes, states) for states in widths]
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=-1) * (0.5 * self.scale).exp()


class Prompts(nn.Module):
    """(2): vectors (B, n_p, D) from the statistics (B, F) of edits and the embeddings (B, n_p, D)
    of their answers.
    """

    def __init__(self, features: int, width: int, tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.knowledge = Perceptron(features, width)
        self.middle, self.last = nn.Linear(width, width), nn.Linear(width, tokens * hidden_size)
        self.carry = nn.Linear(hidden_size, hidden_size, bias=False)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # so that the answer leads at first
            nn.init.eye_(self.carry.weight)

    def forward(self, known: Tensor, answers: Tensor) -> Tensor:
        x = self.knowledge(known)
        x = x + F.relu(self.middle(x))
        return self.last(x).unflatten(1, (answers.shape[1], -1)) + self.carry(answers)  # type: ignore[no-any-return]


class RecipePatch(MemoryPatch):
    """``bank`` holds ``keys`` r_k (E, d), ``prompts`` p_k (E, n_p, D) and ``pictured`` (E,)."""

    FILE = "recipe.safetensors"
    editor: "Recipe"

    @torch.no_grad()
    def prefix(self, batch: Batch) -> dict[int, Tensor]:
        """See :meth:`Patch.prefix`."""
        if not len(self):
            return {}
        editor = self.editor
        key = editor.retriever(editor.features(editor.look(batch)))
        score = editor.above(key, self.bank["keys"])
        if editor.config.scope == "both":
            score = score.masked_fill(~kindred(batch.spans, self.bank["pictured"]), NEVER)
        rows, edits, batch.fired[self] = self.found(score, editor.config.margin)
        return dict(zip(rows, self.bank["prompts"][edits], strict=True))


class Recipe(MemoryEditor):
    """The editor: encoder, retriever with its sentinel, and what makes the prompts.

    Raises :class:`UnsupportedModel` where no vectors can stand before a text.
    """

    name = "recipe"
    paper = PAPERS["recipe"]
    Config = RecipeConfig
    patch_class = RecipePatch
    query_time = frozenset({"margin", "generality", "locality"})
    config: RecipeConfig

    def __init__(self, vlm: VLM, config: RecipeConfig | None = None) -> None:
        super().__init__(vlm, config)
        c, D = self.config, vlm.hidden_size
        vlm.check_layer(self.layer)
        vlm.check_prefix()
        both = c.scope == "both"
        self.encoder, widths, known = None, [vlm.state_size if both else D], D
        if c.encoder is not None:
            with reading(c.encoder):
                source = checkpoint(c.encoder)
                self.encoder = transformers.AutoModel.from_pretrained(
                    source, dtype=torch.float32
                ).eval()
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            known = self.encoder.get_input_embeddings().embedding_dim
            widths = [known]
        widths += [vlm.state_size] if both else []
        self.retriever = Retriever(widths, c.key_dim, c.prototypes)
        self.prompts = Prompts(POOLED * known, c.key_dim, c.tokens, D)
        parts = {"retriever": self.retriever, "prompts": self.prompts}
        self._networks = nn.ModuleDict(
            parts if self.encoder is None else parts | {"encoder": self.encoder}
        )
        self._networks.to(vlm.device)

    def networks(self) -> nn.ModuleDict:
        """Retriever with sentinel, prompts, and the encoder if there is one."""
        return self._networks

    # Reading

    def look(self, batch: Batch) -> list[Seen]:
        """What is read of each row's question."""
        pooled, questions = (
            torch.empty(len(batch), 0, device=self.device),
            [span.prompt for span in batch.spans],
        )
        if self.config.scope == "both":
            states = self.vlm.hidden(batch, self.layer).hidden.to(self.device)
        else:
            states = self.words(batch.inputs["input_ids"])
        if self.encoder is None:
            pooled = torch.cat([pooled, last_statistics(cut(states, questions))], 1)
        if self.config.scope == "both":
            pooled = torch.cat(
                [pooled, last_statistics(cut(states, [span.image for span in batch.spans]))], 1
            )
        ids = [
            row[slice(*part)]
            for row, part in zip(batch.inputs["input_ids"], questions, strict=True)
        ]
        return [Seen(row, text) for row, text in zip(pooled, self.decoded(ids), strict=True)]

    def features(self, seen: Sequence[Seen]) -> Tensor:
        """The statistics (B, F) of questions, those of a trained encoder first."""
        pooled = torch.stack([row.pooled for row in seen]).to(self.device)
        return (
            pooled
            if self.encoder is None
            else torch.cat([self.encoded([row.text for row in seen]), pooled], 1)
        )

    def known(self, tokens: Tensor) -> Tensor:
        """The statistics (B, F) of edits, whose prompts and answers ``tokens`` (B, n) are."""
        if self.encoder is None:
            return last_statistics(Part(self.words(tokens), tokens != NO_TOKEN))
        return self.encoded(self.decoded([row[row != NO_TOKEN] for row in tokens]))

    def decoded(self, ids: Sequence[Tensor]) -> list[str]:
        """Token ids as text."""
        texts: list[str] = self.vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def encoded(self, texts: list[str]) -> Tensor:
        """The statistics (B, F) of a trained encoder's states."""
        assert self.encoder is not None
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(
            self.device
        )
        part = Part(self.encoder(**inputs).last_hidden_state, inputs["attention_mask"].bool())
        return statistics(part, torch.zeros_like(part.mask[:, 0], dtype=torch.long))

    def sentinel(self) -> Tensor:
        """r_Θ (1, d)."""
        states = list(self.retriever.prototypes)
        if self.encoder is not None:
            states[0] = self.encoder(inputs_embeds=states[0]).last_hidden_state
        parts = [Part(some, torch.ones_like(some[..., 0], dtype=torch.bool)) for some in states]
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        key: Tensor = self.retriever(torch.cat([statistics(part, first) for part in parts], 1))
        return key

    def above(self, query: Tensor, keys: Tensor) -> Tensor:
        """How far queries (B, d) are above the sentinel in their likeness to edits (E, d): (B, E),
        (3).
        """
        return query @ keys.T - query @ self.sentinel().T

    # Editing

    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """See :meth:`MemoryEditor.entries`."""
        batch = self.vlm.encode(queries, eos=self.config.eos)
        ids = batch.inputs["input_ids"]
        texts = [
            row[span.prompt[0] : span.stop] for row, span in zip(ids, batch.spans, strict=True)
        ]
        known = self.known(nn.utils.rnn.pad_sequence(texts, True, NO_TOKEN))
        return {
            "keys": self.retriever(self.features(self.look(batch))),
            "prompts": self.prompts(known, self.answers(batch.labels)),
            "pictured": pictured(batch.spans, self.device),
        }

    def nothing(self) -> dict[str, Tensor]:
        """See :meth:`MemoryEditor.nothing`."""
        c = self.config
        prompts = torch.empty(0, c.tokens, self.vlm.hidden_size)
        return {
            "keys": torch.empty(0, c.key_dim),
            "prompts": prompts,
            "pictured": torch.empty(0, dtype=torch.bool),
        }

    def answers(self, labels: Tensor) -> Tensor:
        """The embeddings (B, n_p, D) of each row's first answer tokens, 0 beyond its last;
        ``labels`` (B, T).
        """
        tokens = nn.utils.rnn.pad_sequence([row[row >= 0] for row in labels], True, NO_TOKEN)[
            :, : self.config.tokens
        ]
        tokens = F.pad(tokens, (0, self.config.tokens - tokens.shape[1]), value=NO_TOKEN)
        vectors: Tensor = self.words(tokens) * (tokens != NO_TOKEN).to(self.device)[..., None]
        return vectors

    # Training

    def example(self) -> RecipeExample:
        """See :meth:`MemoryEditor.example`."""
        return RecipeExample()

    def observe(self, asked: Sequence[Asked]) -> None:
        """See :meth:`MemoryEditor.observe`."""
        batch = self.vlm.encode([query for *_, query in asked], eos=self.config.eos)
        places = torch.zeros(self.config.tokens, self.vlm.hidden_size)
        longer, _ = batch.prefixed(dict.fromkeys(range(len(batch)), places), self.vlm.pad_token_id)
        with self.vlm.vision_once():
            rows, seen = self.vlm.hidden(longer, EMBEDDINGS).rows(), self.look(batch)
            logits = self.vlm.logits(batch)
        positions = batch.answer_positions()
        base = (
            logits[positions]
            .float()
            .log_softmax(-1)
            .cpu()
            .split_with_sizes(positions.sum(1).tolist())
        )
        for at, (example, kind, _) in enumerate(asked):
            assert isinstance(example, RecipeExample)
            example.inputs[kind] = alone(rows[at])
            example.asked[kind] = Seen(seen[at].pooled.cpu().clone(), seen[at].text)
            if kind in self.config.locality:
                example.base[kind] = base[at].clone()
            if kind == EDIT:
                span, ids = batch.spans[at], batch.inputs["input_ids"][at].cpu()
                example.text = ids[span.prompt[0] : span.stop].clone()
                example.answer = ids[slice(*span.answer)].clone()

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        made = [example for example in examples if isinstance(example, RecipeExample)]
        terms = self.answer_terms(made[: self.config.written], generator) | self.retrieval_terms(
            made
        )
        return torch.stack(list(terms.values())).sum(), terms

    def answer_terms(
        self, examples: Sequence[RecipeExample], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """(4): of each example the edit, one query in its scope and one out of it, drawn at random."""
        c = self.config
        groups = {"reliability": (EDIT,), "generality": c.generality, "locality": c.locality}
        drawn = {name: self.draw(examples, kinds, generator) for name, kinds in groups.items()}
        names = [row for rows in drawn.values() for row in rows]
        written = self.written(examples, names, generator)
        rows, prompts = (
            written.rows,
            self.prompts(self.known(written.text), self.answers(written.said)),
        )
        first = torch.tensor([span.prompt[0] for span in rows.spans], device=self.device)[:, None]
        index = (
            torch.arange(len(names), device=self.device)[:, None],
            first + torch.arange(c.tokens, device=self.device),
        )
        hidden = rows.hidden.index_put(index, prompts[[j for _, j in names]])
        positions = rows.answer_positions()
        logits = self.vlm.resume(
            EMBEDDINGS, replace(rows, hidden=hidden.to(self.vlm.dtype)), positions
        )
        labels, lengths = rows.labels.roll(-1, 1)[positions], positions.sum(1).tolist()
        terms, start = {}, 0
        for name, chosen in drawn.items():
            if not chosen:
                continue
            stop = start + len(chosen)
            here = slice(sum(lengths[:start]), sum(lengths[:stop]))
            owner = (
                torch.arange(len(chosen))
                .repeat_interleave(torch.tensor(lengths[start:stop]))
                .to(self.device)
            )
            if name == "locality":
                base = torch.cat([examples[j].base[kind] for kind, j in chosen]).to(self.device)
                terms[name] = kl(logits[here], base, owner, len(chosen)).mean()
            else:
                terms[name] = nll(logits[here], labels[here], owner, len(chosen)).mean()
            start = stop
        return terms

    def draw(
        self, examples: Sequence[RecipeExample], kinds: Sequence[str], generator: torch.Generator
    ) -> list[RowName]:
        """One of the kinds for each example that has any."""
        found = [
            ([kind for kind in kinds if kind in example.facts], j)
            for j, example in enumerate(examples)
        ]
        dice = torch.rand(len(found), generator=generator).tolist()
        return [
            (some[int(die * len(some))], j)
            for (some, j), die in zip(found, dice, strict=True)
            if some
        ]

    def retrieval_terms(self, examples: Sequence[RecipeExample]) -> dict[str, Tensor]:
        """(5) and (6) for every query of the batch and every edit of it, rivals left out."""
        c = self.config
        names = self.names(examples, EDIT, *c.generality, *c.locality)
        key: Tensor = self.retriever(self.features([examples[j].asked[kind] for kind, j in names]))
        spans = [examples[j].inputs[kind].spans[0] for kind, j in names]
        own, rivals = (value.to(self.device) for value in belonging(examples, names, c.locality))
        apart = rivals
        if c.scope == "both":
            apart = apart | ~kindred(spans, pictured(spans[: len(examples)], self.device))
        similarity = (key @ key[: len(examples)].T).masked_fill(apart, NEVER)
        sentinel = (key @ self.sentinel().T)[:, 0]
        inside = own >= 0
        scores = torch.cat([similarity, sentinel[:, None]], 1)[inside]
        mine = own[:, None] == torch.arange(len(examples), device=self.device)
        others = similarity.masked_fill(mine, NEVER)
        return {
            "neighbour": F.cross_entropy(scores, own[inside]),
            "sentinel": sentinel_loss(others[inside], sentinel[inside], c.hinge)
            + (
                sentinel_loss(others[~inside], sentinel[~inside], c.hinge)
                if bool((~inside).any())
                else 0.0
            ),
        }
