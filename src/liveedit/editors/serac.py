"""SERAC: a scope classifier finds the edit that a query belongs to, and a small model answers.

Mitchell, Lin, Bosselut, Manning, Finn: "Memory-Based Model Editing at Scale", ICML 2022 (arXiv
2206.06520). With the stored edits z_e = (x_e, y_e), the scope classifier g and the counterfactual
model h,

    (1)  answer(x) = h(z_β, x)  if  g(z_β, x) ≥ ½,  else the model's own;    β = argmax_e g(z_e, x)
    (2)  l(g) = −log g(z_e, x_in) − log(1 − g(z_e, x_out))
    (3)  l(h) = −log h(y_in | z_e, x_in)

Here g(z, x) = σ(L), where L are the log-odds of ``common/hard_negatives.py`` that x resembles the
edit both in its image and in its question. They are computed from unit keys of one extractor for
both sides (``common/extractors.py``). h is a causal transformer. It reads the text of the edit,
then the input of the VLM's first layer for the query, image included. It computes a replacement for
the output of the VLM's last layer, so that the VLM's own norm and output embedding give the logits:

    point         paper             released for VLMs               here
    scope reads   text, by BERT     the same                        image and text, from the VLM's
                                                                    states, or word embeddings
                                                                    (``scope="text"``)
    x_out in (2)  queries drawn     VLKEB: text; LiveEdit: drawn    all queries of a batch with all
                  for it                                            its edits, hard ones included
    h             a language model  OPT-125M; VLKEB: or a VLM       a new one, or a pretrained one
    vocabulary    h's own           VLKEB: h's own; LiveEdit: the   the VLM's, between linear maps
                                    VLM's, between residual blocks  that start as identities
    stored        x_e and y_e       VLKEB: text; LiveEdit:          text: the scope has compared the
                                    embeddings of image and text    images
    locality      no term           KL from the VLM to h            no term: h answers only in scope

g has to exceed ``threshold``, ½ by default. With ``scope="both"`` a query without image never
matches an edit with one, nor vice versa. In a decoder with several residual streams, h reads the
first one, which starts as the embeddings, and writes all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import torch
import transformers
from annotated_types import Gt, Lt
from torch import Tensor, nn

from liveedit.editors.common.attention import (
    Part,
    image_and_prompt,
    similarity,
    with_image,
)
from liveedit.editors.common.branch import Branch, Recorder
from liveedit.editors.common.examples import (
    EDIT,
    TrainingQuery,
    detached_row,
    row_names,
    same_fact,
)
from liveedit.editors.common.extractors import EditSide, UnitKeyExtractor, image_tokens
from liveedit.editors.common.hard_negatives import NEVER, hard_negative_loss, log_odds
from liveedit.editors.common.losses import nll
from liveedit.editors.common.retrieval import (
    NO_TOKEN,
    RetrievalEditor,
    RetrievalExample,
    RetrievalPatch,
    Scope,
    compatible,
)
from liveedit.editors.common.widths import multiple
from liveedit.errors import BadInput
from liveedit.models import checkpoint
from liveedit.models.batch import Batch, HiddenBatch, Spans, going_on
from liveedit.models.calls import CACHE
from liveedit.models.patch import INPUT, SiteFn
from liveedit.models.vlm import VLM, reading
from liveedit.settings import Count, Index, Share
from liveedit.types import Case, Query

__all__ = ["Counterfactual", "Serac", "SeracConfig", "SeracPatch"]

SHALLOW = 2
"""Layers of h for a model that is narrower than h would be by default."""
FIRST_INPUT = f"layers.0{INPUT}"
"""The site of the first layer's input."""


@dataclass(frozen=True)
class SeracConfig:
    """Settings of SERAC.

    Arguments:
        layer: Decoder layer whose output the scope classifier reads, from 0; ``None``: after two
            thirds of them.
        scope: Evidence of the scope classifier: image and text, ``"both"``, or ``"text"``.
        module_dim: Width d_m of its keys.
        heads: Attention heads of the classifier and of a new counterfactual model.
        queries: Number k of vectors in a key.
        drop: Share of image and prompt tokens hidden from the classifier in training.
        threshold: Probability g above which a query is in scope.
        counterfactual: Pretrained decoder-only language model h, a folder or Hugging Face id;
            ``None``: a new one of ``width`` and ``depth``.
        width: Width of a new h.
        depth: Layers of a new h.
        tokens: Maximum number of tokens of an edit's text.
        written: Number of examples of a batch that train h; ``None``: all of them.
        fresh: Share of these whose answers are replaced by random tokens, so that h learns to read
            answers instead of memorising them.
        eos: Whether every target ends with the end-of-text token.
        generality: Metrics whose probes are in scope.
        locality: Metrics whose probes are out of scope.
    """

    layer: Index | None = None
    scope: Scope = "both"
    module_dim: Count = 256
    heads: Count = 4
    queries: Count = 4
    drop: Share = 0.2
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    counterfactual: str | None = None
    width: Count = 768
    depth: Count = 12
    tokens: Count = 128
    written: Count | None = None
    fresh: Share = 0.0
    eos: bool = False
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("text_locality", "image_locality")


class Counterfactual(nn.Module):
    """h: a causal transformer between two linear maps.

    The first map reads the VLM's embeddings, the second writes the output of its last layer.
    """

    def __init__(self, vlm: VLM, source: str | None, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if source is None:
            self.model = new_transformer(width, depth, heads)
        else:
            with reading(source):
                self.model = transformers.AutoModel.from_pretrained(
                    checkpoint(source), dtype=torch.float32
                )
            width = self.model.get_input_embeddings().embedding_dim
            self.model.set_input_embeddings(nn.Embedding(1, width))  # its own are never used
        self.model.eval()
        self.reads = nn.Linear(vlm.hidden_size, width)
        self.writes = nn.Linear(width, vlm.state_size)
        for linear in (self.reads, self.writes):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, embeddings: Tensor, mask: Tensor, cache: transformers.DynamicCache | None = None
    ) -> Tensor:
        """States (B, n, ·) for ``embeddings`` (B, n, D), the last n of each row's N tokens.

        ``mask`` (B, N) marks the tokens that are not padding. The tokens before the last n, if
        any, are in ``cache``.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        states = self.model(
            inputs_embeds=self.reads(embeddings),
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
            **{CACHE: cache},
        ).last_hidden_state
        return self.writes(states)  # type: ignore[no-any-return]


def new_transformer(width: int, depth: int, heads: int) -> transformers.LlamaModel:
    """A new causal transformer without a vocabulary of its own."""
    config = transformers.LlamaConfig(
        vocab_size=1,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        initializer_range=width**-0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return transformers.LlamaModel(config)


class SeracPatch(RetrievalPatch):
    """A bank of edits.

    ``bank`` holds ``vision_keys`` and ``text_keys`` (E, k, d_m), ``pictured`` (E,), whether the
    edit has an image, and the ``tokens`` (E, n) of its text, -1 beyond its end.
    """

    FILE = "serac.safetensors"
    readable = True
    editor: "Serac"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        return CounterfactualBranch(self, batch).sites() if len(self) else {}


class ScopeRoute(NamedTuple):
    """The edit (B,) that each row belongs to, -1 for none."""

    edit: Tensor


class CounterfactualBranch(Branch[ScopeRoute]):
    """Replaces the last layer's output by h's for the rows that are in the scope of an edit.

    It reads the first layer's input; the scope is decided at a site between the two.
    """

    def __init__(self, patch: SeracPatch, batch: Batch) -> None:
        super().__init__(FIRST_INPUT, f"layers.{patch.editor.vlm.num_layers - 1}")
        self.patch = patch
        self.batch = batch
        self.mask = torch.empty(0)
        """Which tokens that h has read, edits' texts included, are not padding, (B', N)."""
        self.text_length = 0
        """How many tokens of edits' texts h has read."""
        self.length = 0
        """How many tokens of the rows h has read after those texts."""
        self.cache = transformers.DynamicCache()

    def sites(self) -> dict[str, SiteFn]:
        """See :meth:`Branch.sites`; the scope is decided at a third site."""
        return super().sites() | {f"layers.{self.patch.editor.layer}": self.choose}

    def read(self, x: Tensor) -> Tensor:
        """Keep the first layer's input for the newest tokens, (B, T', D)."""
        self.input = self.patch.editor.stream(x)
        return x

    def choose(self, hidden: Tensor) -> Tensor:
        """Route, on the prompts' states ``hidden`` (B, T, D); return them."""
        if self.routing is None:
            self.routing = self.route(hidden)
        return hidden

    @torch.no_grad()
    def route(self, x: Tensor) -> ScopeRoute:
        """Find the edit in whose scope each row is, if there is one."""
        editor = self.patch.editor
        image, prompt = image_and_prompt(editor.evidence(x, self.batch), self.batch.spans)
        L = editor.scope_log_odds(image, prompt, self.batch.spans, self.patch.bank.tensors())
        match = self.patch.match(self.batch, L.sigmoid(), editor.config.threshold)
        edit = torch.full((len(x),), -1, device=x.device)
        edit[match.rows] = torch.tensor(match.edits, dtype=torch.long, device=x.device)
        return ScopeRoute(edit)

    @torch.no_grad()
    def change(self, x: Tensor, output: Tensor, routing: ScopeRoute) -> Tensor:
        """See :meth:`Branch.change`."""
        rows = (routing.edit >= 0).nonzero()[:, 0]
        if not len(rows):
            return output
        editor = self.patch.editor
        embeddings = x[rows.to(x.device)].to(editor.device).float()
        if self.length == 0:
            embeddings = self.begin(embeddings, rows, routing.edit[rows])
        self.length += x.shape[1]
        stop = self.text_length + self.length
        self.mask = nn.functional.pad(self.mask, (0, max(0, stop - self.mask.shape[1])), value=1)
        states = editor.counterfactual(embeddings, self.mask[:, :stop], self.cache)
        newest = states[:, -x.shape[1] :].to(output)
        return output.index_copy(0, rows.to(output.device), newest)

    def begin(self, embeddings: Tensor, rows: Tensor, edits: Tensor) -> Tensor:
        """Put the texts of ``edits`` (B',) before the prompts ``embeddings`` (B', T, D) of rows."""
        editor = self.patch.editor
        text, real = editor.texts(self.patch.bank["tokens"][edits.to(editor.device)])
        self.text_length = text.shape[1]
        prompt_mask = self.batch.inputs["attention_mask"]
        prompt_mask = prompt_mask[rows.to(prompt_mask.device)].to(real)
        self.mask = torch.cat([real, prompt_mask], 1)
        return torch.cat([text, embeddings], 1)

    def rewind(self, length: int) -> None:
        """See :meth:`Branch.rewind`."""
        super().rewind(length)
        if self.length > length:
            self.cache.crop(length - self.length)
            self.length = length

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`Branch.reorder`."""
        if self.routing is not None and len(self.mask):
            in_scope = (self.routing.edit >= 0).nonzero()[:, 0].tolist()
            _, before = going_on(in_scope, rows)
            chosen = torch.tensor(before, dtype=torch.long, device=self.mask.device)
            self.mask = self.mask[chosen]
            self.cache.reorder_cache(chosen)
        super().reorder(rows)


class Serac(RetrievalEditor[SeracPatch, RetrievalExample]):
    """The editor: the scope's extractor on both sides, and the counterfactual model.

    Raises :class:`BadInput` for sizes that do not fit.
    """

    name = "serac"
    Config = SeracConfig
    patch_class = SeracPatch
    inference_settings = frozenset({"threshold", "generality", "locality"})
    config: SeracConfig

    @classmethod
    def fitted(cls, vlm: VLM, cases: Sequence[Case]) -> dict[str, Any]:
        """See :meth:`TrainableEditor.fitted`: h and the keys are no wider than the model."""
        width = multiple(vlm.state_size)
        default = cls.Config()
        small = width < default.width
        return {
            **super().fitted(vlm, cases),
            "module_dim": min(default.module_dim, width),
            "width": min(default.width, width),
            "depth": SHALLOW if small else default.depth,
        }

    def __init__(self, vlm: VLM, config: SeracConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(self.layer)
        if self.layer == vlm.num_layers - 1:
            raise BadInput(
                "the last layer is where the counterfactual model writes: let the scope read a "
                "lower one"
            )
        if c.module_dim % c.heads or c.width % c.heads:
            raise BadInput(
                f"{c.heads} heads do not divide widths {c.module_dim} and {c.width}: change heads"
            )
        width = vlm.state_size if c.scope == "both" else vlm.hidden_size
        sizes = (width, c.module_dim, c.heads, c.queries)
        self.input_features = UnitKeyExtractor(*sizes, image_tokens(vlm))
        self.edit_features = EditSide(self.input_features)
        self.counterfactual = Counterfactual(vlm, c.counterfactual, c.width, c.depth, c.heads)
        parts = ("input_features", "edit_features", "counterfactual")
        self._networks = nn.ModuleDict({name: getattr(self, name) for name in parts})
        self._networks.to(vlm.device)

    def networks(self) -> nn.ModuleDict:
        """The scope's extractors and the counterfactual model."""
        return self._networks

    # Editing

    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """See :meth:`RetrievalEditor.entries`. Raises :class:`BadInput` for too long a text."""
        batch = self.vlm.encode(queries, eos=self.config.eos)
        states = self.evidence(self.vlm.hidden(batch, self.layer).hidden, batch)
        image, prompt = image_and_prompt(states, batch.spans)
        tokens = torch.full((len(batch), self.config.tokens), NO_TOKEN, device=self.device)
        for row, span in enumerate(batch.spans):
            text = self.text(batch.inputs["input_ids"][row], span)
            tokens[row, : len(text)] = text
        pictured = with_image(batch.spans, self.device)
        return self.keys(image, prompt) | {"pictured": pictured, "tokens": tokens}

    def no_entries(self) -> dict[str, Tensor]:
        """See :meth:`RetrievalEditor.no_entries`."""
        c = self.config
        key = torch.empty(0, c.queries, c.module_dim)
        return {
            "vision_keys": key,
            "text_keys": key,
            "pictured": torch.empty(0, dtype=torch.bool),
            "tokens": torch.empty(0, c.tokens, dtype=torch.long),
        }

    def text(self, ids: Tensor, span: Spans) -> Tensor:
        """The tokens of an edit's prompt and answer, from the token ids (T,) of its row."""
        text = ids[span.prompt[0] : span.stop]
        if len(text) > self.config.tokens:
            raise BadInput(
                f"the text of the edit has {len(text)} tokens: shorten it to at most "
                f"{self.config.tokens}"
            )
        return text

    def texts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, n, D) of edits' ``tokens`` (B, …), and which of them are not padding."""
        real = tokens != NO_TOKEN
        longest = int(real.sum(1).max())
        return self.words(tokens[:, :longest]), real[:, :longest].long()

    def stream(self, x: Tensor) -> Tensor:
        """The embeddings (B, T, D) in the first layer's input, its first residual stream."""
        return x[..., : self.vlm.hidden_size]

    # Scope

    def evidence(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The states (B, T, D) that the scope classifier may read.

        They are those of its layer, or word embeddings, which do not depend on the image.
        """
        if self.config.scope == "both":
            return hidden.to(self.device)
        return self.words(batch.inputs["input_ids"])

    def keys(self, image: Part, prompt: Part) -> dict[str, Tensor]:
        """φ̂ and ψ̂ of edits, (E, k, d_m)."""
        return {
            "vision_keys": self.edit_features.vision_key(image, prompt),
            "text_keys": self.edit_features.text_key(prompt),
        }

    def scope_log_odds(
        self, image: Part, prompt: Part, spans: Sequence[Spans], edits: dict[str, Tensor]
    ) -> Tensor:
        """L (B, E): the log-odds that each query is in the scope of each of the edits."""
        z = similarity(self.input_features.text_key(prompt), edits["text_keys"])
        if self.config.scope == "text":
            return z
        phi, sentinel = self.input_features.vision_key_and_sentinel(image, prompt)
        margin = similarity(phi, edits["vision_keys"]) - sentinel[:, None]
        shown = edits["pictured"].expand_as(z)
        L = torch.where(shown, log_odds(margin, z), z)
        return L.masked_fill(~compatible(spans, edits["pictured"]), NEVER)

    # Training

    def observe(self, asked: Sequence[TrainingQuery[RetrievalExample]]) -> None:
        """See :meth:`TrainableEditor.observe`."""
        batch = self.vlm.encode([item.query for item in asked], eos=self.config.eos)
        record = Recorder(FIRST_INPUT)
        with self.vlm.patched(record):
            hidden = self.vlm.hidden(batch, self.layer)
        rows = replace(hidden, hidden=self.evidence(hidden.hidden, batch)).rows()
        inputs = replace(hidden, hidden=self.stream(record.seen[FIRST_INPUT])).rows()
        for row, item in enumerate(asked):
            example = item.example
            example.rows[item.kind] = detached_row(rows[row])
            if not self.must_stay(item.kind):
                example.inputs[item.kind] = detached_row(inputs[row])
            if item.kind == EDIT:
                ids = batch.inputs["input_ids"][row]
                span = batch.spans[row]
                example.text = self.text(ids, span).cpu().clone()
                example.answer = ids[slice(*span.answer)].cpu().clone()

    def loss(
        self, examples: Sequence[RetrievalExample], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        terms = self.answer_terms(examples[: self.config.written], generator)
        terms["scope"] = self.scope_term(examples, generator)
        return torch.stack(list(terms.values())).sum(), terms

    def answer_terms(
        self, examples: Sequence[RetrievalExample], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """(3) for each kind of queries in scope, averaged over its rows."""
        names = row_names(examples, (EDIT, *self.config.generality))
        answered = self.answering(examples, names, generator)
        rows = answered.rows
        text, real = self.texts(answered.texts[[j for _, j in names]])
        mask = torch.cat([real, rows.attention_mask], 1)
        states = self.counterfactual(torch.cat([text, rows.hidden], 1), mask)
        last = replace(rows, hidden=states[:, text.shape[1] :].to(self.vlm.dtype))
        logits = self.vlm.resume(self.vlm.num_layers - 1, last, rows.answer_positions())
        loss = nll(logits, rows.answer_tokens(), rows.answer_rows(), len(names))
        terms = dict[str, Tensor]()
        for kind in dict.fromkeys(kind for kind, _ in names):
            chosen = [row for row, (other, _) in enumerate(names) if other == kind]
            terms[kind] = loss[chosen].mean()
        return terms

    def scope_term(
        self, examples: Sequence[RetrievalExample], generator: torch.Generator
    ) -> Tensor:
        """(2) for every query of the batch and every edit of it, averaged over the queries.

        Edits of another example about the same fact as the query are ignored.
        """
        c = self.config
        names = row_names(examples, (EDIT, *c.generality, *c.locality))
        states = [examples[j].rows[kind] for kind, j in names]
        rows = HiddenBatch.stack(states).to(self.device)
        image, prompt = image_and_prompt(rows.hidden, rows.spans)
        edits = torch.arange(len(examples), device=self.device)
        edit_image = image.pick(edits).drop(c.drop, generator)
        edit_prompt = prompt.pick(edits).drop(c.drop, generator)
        keys = self.keys(edit_image, edit_prompt)
        keys["pictured"] = with_image(rows.spans[: len(examples)], self.device)
        image = image.drop(c.drop, generator)
        prompt = prompt.drop(c.drop, generator)
        L = self.scope_log_odds(image, prompt, rows.spans, keys)
        L = L.masked_fill(same_fact(examples, names).to(self.device), NEVER)
        own = [-1 if self.must_stay(kind) else j for kind, j in names]
        return hard_negative_loss(L, torch.tensor(own, device=self.device))
