"""RECIPE: continuous prompt vectors for each edit, put before the queries that match it.

Chen, Wang, Zhang, He, Liang, Yang, Gao: "Lifelong Knowledge Editing for LLMs with
Retrieval-Augmented Continuous Prompt Learning", EMNLP 2024 (arXiv 2405.03279). An encoder pools an
edit k, a query q and learned prototype tokens Θ, the knowledge sentinel, to statistics of their
token states: one summary state, mean, maximum and minimum. From these

    (1)  r_k, r_q, r_Θ     in one space, by perceptrons
    (2)  p_k               n_p vectors of the embeddings' width, by a perceptron from the edit
    (3)  answer(q) = f(p_τ ⊕ q)  if  r_q·r_τ > r_q·r_Θ,  else f(q);    τ = argmax_k r_q·r_k
    (4)  l_rel, l_gen: −log f(answer | p_k ⊕ q);    l_loc: KL to f(q), of queries out of scope
    (5)  l_no = −log softmax of r_q·r_own among all r_k and r_Θ, for queries in scope
    (6)  l_so = −log softmax of r_q·r_Θ among it and all r_k except the query's own, for all
         queries; a query counts while its share is below ``hinge`` times the next best

    point               paper                   for VLMs, released  here
    encoder             RoBERTa, trained        the same            the VLM's own states, or a
                                                                    pretrained one
    summary state       the pooler's            the same            the last token's; an encoder's
                                                                    first
    query at inference  text                    the image is lost   image and text
    retrieval reads     text                    the same            image and text, or with
                                                                    ``scope="text"`` word embeddings
    key of an edit      of question and answer  the same            of the question, so that a query
                                                                    equal to the edit has its key
    p_k reads           the encoder's states    the same            word embeddings, or a pretrained
                                                                    encoder
    perceptrons in (1)  one for each side       the same            one for both
    r                   as computed             divided by d^¼      of unit length, times a learned
                                                                    scale
    p_k computed from   the edit's statistics   the same            also its answer's embeddings,
                                                                    linearly mapped, so that new
                                                                    answers can be written, too
    position of p_k     before the query        before the image    between image and text
    queries in (5, 6)   one for each edit       the same            all of the batch, hard ones
                                                                    included

With ``scope="both"`` a query without image never matches an edit with one, nor vice versa.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors.common.attention import Part, cut, with_image
from liveedit.editors.common.examples import (
    EDIT,
    RowName,
    TrainingQuery,
    detached_row,
    row_names,
    same_fact,
)
from liveedit.editors.common.extractors import SCALE
from liveedit.editors.common.hard_negatives import NEVER
from liveedit.editors.common.losses import kl, nll
from liveedit.editors.common.retrieval import (
    NO_TOKEN,
    RetrievalEditor,
    RetrievalExample,
    RetrievalPatch,
    Scope,
    compatible,
)
from liveedit.editors.common.widths import multiple
from liveedit.models import checkpoint
from liveedit.models.batch import Batch
from liveedit.models.vlm import EMBEDDINGS, VLM, reading
from liveedit.settings import Count, Index, Share
from liveedit.types import Case, Query

__all__ = ["Recipe", "RecipeConfig", "RecipePatch", "sentinel_loss", "statistics"]

POOLED = 4
"""Number of statistics of token states."""


@dataclass(frozen=True)
class RecipeConfig:
    """Settings of RECIPE.

    Arguments:
        layer: Decoder layer whose output is pooled, from 0; ``None``: after two thirds of them.
        scope: Evidence of the retrieval: image and text, ``"both"``, or ``"text"``.
        encoder: Pretrained text encoder, a folder or Hugging Face id, which is trained, too;
            ``None``: the VLM's own states.
        tokens: Number n_p of prompt vectors.
        key_dim: Width of r.
        prototypes: Number of the sentinel's prototype tokens.
        hinge: In (6) a query counts while its share is below this factor times the next best.
        margin: Distance above the sentinel that an edit needs to be retrieved.
        written: Number of examples of a batch that train the prompts; ``None``: all of them.
        fresh: Share of these whose answers are replaced by random tokens, so that the prompts learn
            to convey an edit instead of memorising answers.
        eos: Whether every target ends with the end-of-text token.
        generality: Metrics whose probes are in scope.
        locality: Metrics whose probes are out of scope.
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
class Question:
    """The input of the retrieval for one query.

    Arguments:
        pooled: Frozen statistics, (F',).
        text: The question's text, for a trained encoder.
    """

    pooled: Tensor
    text: str


@dataclass(slots=True)
class RecipeExample(RetrievalExample):
    """A training case; its ``inputs`` have room for the prompt vectors before the text.

    Arguments:
        questions: By kind, the query as the retrieval reads it.
    """

    questions: dict[str, Question] = field(default_factory=dict)


def statistics(part: Part, summary: Tensor) -> Tensor:
    """Pool states (B, n, W) to (B, 4W): the state at ``summary`` (B,), mean, maximum and minimum.

    0 for a row without states.
    """
    states = part.states
    real = part.mask[..., None]
    infinite = torch.finfo(states.dtype).max
    one = states[torch.arange(len(states)), summary]
    mean = (states * real).sum(1) / real.sum(1).clamp(min=1)
    most = states.masked_fill(~real, -infinite).amax(1)
    least = states.masked_fill(~real, infinite).amin(1)
    any_real = part.mask.any(1, keepdim=True)
    return torch.cat([one, mean, most, least], 1).masked_fill(~any_real, 0.0)


def last_statistics(part: Part) -> Tensor:
    """The :func:`statistics` with each row's last state as its summary, as in a causal model."""
    return statistics(part, (part.mask.sum(1) - 1).clamp(min=0))


def sentinel_loss(similarity: Tensor, sentinel: Tensor, hinge: float) -> Tensor:
    """(6) for ``similarity`` (R, E), ``NEVER`` at the query's own edit, and ``sentinel`` (R,)."""
    scores = torch.cat([sentinel[:, None], similarity], 1)
    share = scores.softmax(1)
    counted = share[:, 0] < hinge * share[:, 1:].amax(1)
    loss = -scores.log_softmax(1)[:, 0]
    return (loss * counted).sum() / counted.sum().clamp(min=1)


class Perceptron(nn.Module):
    """x + ρ(W₂ x) with x = W₁ LN(s), from statistics s (B, F) to (B, d)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(x))
        return x + F.relu(self.second(x))


class KeyNetwork(Perceptron):
    """(1) for edits, queries and the sentinel, whose prototype tokens it holds for each source.

    ``widths`` are those of the sources of states. r (B, d) has the length at which an inner product
    is the learned scale times the cosine.
    """

    def __init__(self, widths: Sequence[int], width: int, prototypes: int) -> None:
        super().__init__(POOLED * sum(widths), width)
        self.scale = nn.Parameter(torch.tensor(log(SCALE)))
        self.prototypes = nn.ParameterList(
            [0.1 * torch.randn(1, prototypes, states) for states in widths]
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=-1) * (0.5 * self.scale).exp()


class PromptNetwork(nn.Module):
    """(2): vectors (B, n_p, D) from edits' statistics and their answers' embeddings."""

    def __init__(self, features: int, width: int, tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.knowledge = Perceptron(features, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, tokens * hidden_size)
        self.carry = nn.Linear(hidden_size, hidden_size, bias=False)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # so that the answer dominates at first
            nn.init.eye_(self.carry.weight)

    def forward(self, known: Tensor, answers: Tensor) -> Tensor:
        x = self.knowledge(known)
        x = x + F.relu(self.middle(x))
        vectors: Tensor = self.last(x).unflatten(1, (answers.shape[1], -1)) + self.carry(answers)
        return vectors


class RecipePatch(RetrievalPatch):
    """A bank of edits.

    ``bank`` holds ``keys`` r_k (E, d), ``prompts`` p_k (E, n_p, D) and ``pictured`` (E,), whether
    the edit has an image.
    """

    FILE = "recipe.safetensors"
    editor: "Recipe"

    @torch.no_grad()
    def prefix(self, batch: Batch) -> dict[int, Tensor]:
        """See :meth:`Patch.prefix`."""
        if not len(self):
            return {}
        editor = self.editor
        key = editor.retriever(editor.features(editor.questions(batch)))
        score = editor.above(key, self.bank["keys"])
        match = self.match(batch, score, editor.config.margin)
        return dict(zip(match.rows, self.bank["prompts"][match.edits], strict=True))


class Recipe(RetrievalEditor[RecipePatch, RecipeExample]):
    """The editor: encoder, key network with the sentinel, and prompt network.

    Raises :class:`UnsupportedModel` where no vectors can precede a text.
    """

    name = "recipe"
    Config = RecipeConfig
    patch_class = RecipePatch
    example_class = RecipeExample
    inference_settings = frozenset({"margin", "generality", "locality"})
    config: RecipeConfig

    @classmethod
    def fitted(cls, vlm: VLM, cases: Sequence[Case]) -> dict[str, Any]:
        """See :meth:`TrainableEditor.fitted`: r is no wider than the model's states."""
        key_dim = min(cls.Config().key_dim, multiple(vlm.state_size))
        return {**super().fitted(vlm, cases), "key_dim": key_dim}

    def __init__(self, vlm: VLM, config: RecipeConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(self.layer)
        vlm.check_prefix()
        both = c.scope == "both"
        self.encoder: Any = None
        edit_width = vlm.hidden_size
        question_width = vlm.state_size if both else vlm.hidden_size
        if c.encoder is not None:
            self.encoder, self.tokenizer = load_encoder(c.encoder)
            edit_width = question_width = self.encoder.get_input_embeddings().embedding_dim
        widths = [question_width, vlm.state_size] if both else [question_width]
        self.retriever = KeyNetwork(widths, c.key_dim, c.prototypes)
        self.prompts = PromptNetwork(POOLED * edit_width, c.key_dim, c.tokens, vlm.hidden_size)
        parts = {"retriever": self.retriever, "prompts": self.prompts}
        if self.encoder is not None:
            parts["encoder"] = self.encoder
        self._networks = nn.ModuleDict(parts)
        self._networks.to(vlm.device)

    def networks(self) -> nn.ModuleDict:
        """Key network with sentinel, prompt network, and the encoder if there is one."""
        return self._networks

    # Reading

    def questions(self, batch: Batch) -> list[Question]:
        """The retrieval's input for each row."""
        spans = [span.prompt for span in batch.spans]
        ids = batch.inputs["input_ids"]
        both = self.config.scope == "both"
        if both:
            states = self.vlm.hidden(batch, self.layer).hidden.to(self.device)
        else:
            states = self.words(ids)
        pooled = [torch.empty(len(batch), 0, device=self.device)]
        if self.encoder is None:
            pooled.append(last_statistics(cut(states, spans)))
        if both:
            images = cut(states, [span.image for span in batch.spans])
            pooled.append(last_statistics(images))
        texts = self.decoded([row[slice(*span)] for row, span in zip(ids, spans, strict=True)])
        rows = torch.cat(pooled, 1)
        return [Question(row, text) for row, text in zip(rows, texts, strict=True)]

    def features(self, questions: Sequence[Question]) -> Tensor:
        """The statistics (B, F) of questions, those of a trained encoder first."""
        pooled = torch.stack([question.pooled for question in questions]).to(self.device)
        if self.encoder is None:
            return pooled
        return torch.cat([self.encoded([question.text for question in questions]), pooled], 1)

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
        """The statistics (B, F) of the trained encoder's states."""
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        inputs = inputs.to(self.device)
        part = Part(self.encoder(**inputs).last_hidden_state, inputs["attention_mask"].bool())
        return statistics(part, torch.zeros_like(part.mask[:, 0], dtype=torch.long))

    def sentinel(self) -> Tensor:
        """r_Θ (1, d)."""
        states = list(self.retriever.prototypes)
        if self.encoder is not None:
            states[0] = self.encoder(inputs_embeds=states[0]).last_hidden_state
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        pooled = []
        for some in states:
            part = Part(some, torch.ones_like(some[..., 0], dtype=torch.bool))
            pooled.append(statistics(part, first))
        key: Tensor = self.retriever(torch.cat(pooled, 1))
        return key

    def above(self, query: Tensor, keys: Tensor) -> Tensor:
        """How far each edit is above the sentinel for each query, (B, E): (3).

        ``query`` (B, d) are r_q, ``keys`` (E, d) are r_k.
        """
        return query @ keys.T - query @ self.sentinel().T

    # Editing

    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """See :meth:`RetrievalEditor.entries`."""
        batch = self.vlm.encode(queries, eos=self.config.eos)
        ids = batch.inputs["input_ids"]
        texts = [
            row[span.prompt[0] : span.stop] for row, span in zip(ids, batch.spans, strict=True)
        ]
        known = self.known(nn.utils.rnn.pad_sequence(texts, True, NO_TOKEN))
        return {
            "keys": self.retriever(self.features(self.questions(batch))),
            "prompts": self.prompts(known, self.answers(batch.labels)),
            "pictured": with_image(batch.spans, self.device),
        }

    def no_entries(self) -> dict[str, Tensor]:
        """See :meth:`RetrievalEditor.no_entries`."""
        return {
            "keys": torch.empty(0, self.config.key_dim),
            "prompts": torch.empty(0, self.config.tokens, self.vlm.hidden_size),
            "pictured": torch.empty(0, dtype=torch.bool),
        }

    def answers(self, labels: Tensor) -> Tensor:
        """The embeddings (B, n_p, D) of each row's first n_p answer tokens, 0 beyond its last.

        ``labels`` are (B, T).
        """
        count = self.config.tokens
        rows = [row[row >= 0] for row in labels]
        tokens = nn.utils.rnn.pad_sequence(rows, True, NO_TOKEN)[:, :count]
        tokens = F.pad(tokens, (0, count - tokens.shape[1]), value=NO_TOKEN)
        real = (tokens != NO_TOKEN).to(self.device)
        return self.words(tokens) * real[..., None]

    # Training

    def observe(self, asked: Sequence[TrainingQuery[RecipeExample]]) -> None:
        """See :meth:`TrainableEditor.observe`."""
        batch = self.vlm.encode([item.query for item in asked], eos=self.config.eos)
        room = torch.zeros(self.config.tokens, self.vlm.hidden_size)
        prefix = dict.fromkeys(range(len(batch)), room)
        longer, _ = batch.prefixed(prefix, self.vlm.pad_token_id)
        with self.vlm.vision_once():
            rows = self.vlm.hidden(longer, EMBEDDINGS).rows()
            questions = self.questions(batch)
            logits = self.vlm.logits(batch)
        positions = batch.answer_positions()
        logs = logits[positions].float().log_softmax(-1).cpu()
        base = logs.split_with_sizes(positions.sum(1).tolist())
        for row, item in enumerate(asked):
            example = item.example
            question = questions[row]
            example.inputs[item.kind] = detached_row(rows[row])
            example.questions[item.kind] = Question(question.pooled.cpu().clone(), question.text)
            if self.must_stay(item.kind):
                example.base[item.kind] = base[row].clone()
            if item.kind == EDIT:
                span = batch.spans[row]
                ids = batch.inputs["input_ids"][row].cpu()
                example.text = ids[span.prompt[0] : span.stop].clone()
                example.answer = ids[slice(*span.answer)].clone()

    def loss(
        self, examples: Sequence[RecipeExample], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        terms = self.answer_terms(examples[: self.config.written], generator)
        terms |= self.retrieval_terms(examples)
        return torch.stack(list(terms.values())).sum(), terms

    def answer_terms(
        self, examples: Sequence[RecipeExample], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """(4) for each example's edit, a random query in its scope and one out of it."""
        drawn = {
            "reliability": self.draw(examples, (EDIT,), generator),
            "generality": self.draw(examples, self.config.generality, generator),
            "locality": self.draw(examples, self.config.locality, generator),
        }
        names = list[RowName]()
        for chosen in drawn.values():
            names += chosen
        answered = self.answering(examples, names, generator)
        rows = answered.rows
        prompts = self.prompts(self.known(answered.texts), self.answers(answered.answers))
        hidden = self.with_prompts(answered.rows.hidden, prompts, names, rows.spans)
        changed = replace(rows, hidden=hidden.to(self.vlm.dtype))
        logits = self.vlm.resume(EMBEDDINGS, changed, rows.answer_positions())
        labels = rows.answer_tokens()
        token_rows = rows.answer_rows()
        terms = dict[str, Tensor]()
        start = 0
        for group, chosen in drawn.items():
            if not chosen:
                continue
            here = (token_rows >= start) & (token_rows < start + len(chosen))
            owner = token_rows[here] - start
            if group == "locality":
                known = torch.cat([examples[j].base[kind] for kind, j in chosen]).to(self.device)
                terms[group] = kl(logits[here], known, owner, len(chosen)).mean()
            else:
                terms[group] = nll(logits[here], labels[here], owner, len(chosen)).mean()
            start += len(chosen)
        return terms

    def with_prompts(
        self, hidden: Tensor, prompts: Tensor, names: Sequence[RowName], spans: Sequence
    ) -> Tensor:
        """``hidden`` (R, T, D) with the ``prompts`` (B, n_p, D) of edits before each row's text."""
        rows = torch.arange(len(names), device=self.device)[:, None]
        first = torch.tensor([span.prompt[0] for span in spans], device=self.device)[:, None]
        columns = first + torch.arange(self.config.tokens, device=self.device)
        return hidden.index_put((rows, columns), prompts[[j for _, j in names]])

    def draw(
        self, examples: Sequence[RecipeExample], kinds: Sequence[str], generator: torch.Generator
    ) -> list[RowName]:
        """One of the kinds for each example that has any, uniformly."""
        drawn = torch.rand(len(examples), generator=generator).tolist()
        rows = list[RowName]()
        for j, (example, number) in enumerate(zip(examples, drawn, strict=True)):
            found = [kind for kind in kinds if kind in example.facts]
            if found:
                rows.append((found[int(number * len(found))], j))
        return rows

    def retrieval_terms(self, examples: Sequence[RecipeExample]) -> dict[str, Tensor]:
        """(5) and (6) for every query of the batch and every edit of it.

        Edits of another example about the same fact as the query are ignored.
        """
        c = self.config
        names = row_names(examples, (EDIT, *c.generality, *c.locality))
        questions = [examples[j].questions[kind] for kind, j in names]
        key: Tensor = self.retriever(self.features(questions))
        apart = same_fact(examples, names).to(self.device)
        if c.scope == "both":
            spans = [examples[j].inputs[kind].spans[0] for kind, j in names]
            edits_with_image = with_image(spans[: len(examples)], self.device)
            apart = apart | ~compatible(spans, edits_with_image)
        similarity = (key @ key[: len(examples)].T).masked_fill(apart, NEVER)
        sentinel = (key @ self.sentinel().T)[:, 0]
        owners = [-1 if self.must_stay(kind) else j for kind, j in names]
        own = torch.tensor(owners, device=self.device)
        inside = own >= 0
        scores = torch.cat([similarity, sentinel[:, None]], 1)[inside]
        mine = own[:, None] == torch.arange(len(examples), device=self.device)
        others = similarity.masked_fill(mine, NEVER)
        missed = sentinel_loss(others[inside], sentinel[inside], c.hinge)
        if bool((~inside).any()):
            missed = missed + sentinel_loss(others[~inside], sentinel[~inside], c.hinge)
        return {"neighbour": F.cross_entropy(scores, own[inside]), "sentinel": missed}


def load_encoder(source: str) -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
    """A pretrained text encoder in float32, and its tokenizer."""
    with reading(source):
        path = checkpoint(source)
        encoder = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        return encoder, transformers.AutoTokenizer.from_pretrained(path)
