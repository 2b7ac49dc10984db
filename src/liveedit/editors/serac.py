"""SERAC: a memory of edits, a scope classifier that finds the one a query belongs to, a small model
that then answers.

Mitchell, Lin, Bosselut, Manning, Finn: "Memory-Based Model Editing at Scale", ICML 2022 (arXiv
2206.06520). With the memory of edits z_e = (x_e, y_e), the scope classifier g and the
counterfactual model h,

    (1)  answer(x) = h(z_β, x)  if  g(z_β, x) ≥ ½,  else the model's own;    β = argmax_e g(z_e, x)
    (2)  l(g) = −log g(z_e, x_in) − log(1 − g(z_e, x_out))
    (3)  l(h) = −log h(y_in | z_e, x_in)

Here g(z, x) = σ(L), with L the log-odds of LiveEdit's hard negatives (``contrast.py``): that the
image of x resembles that of the edit and its question that of the edit, by unit keys of one
extractor for both sides (``metric.py``). h is a causal transformer. It reads the text of the edit,
then what the VLM's first layer takes in for the query, image included, and writes what the VLM's
last layer would have put out, so that the VLM's own norm and output embedding make the logits:

    point                paper                  released for VLMs                    here
    scope reads          text, by BERT          the same                             image and text (VLM's states), or
                                                                                     (``scope="text"``) word embeddings
    out of scope in (2)  queries drawn for it   VLKEB: of text; LiveEdit: drawn      every query of a batch with every
                                                                                     edit of it, hard ones included
    h                    a language model       OPT-125M; VLKEB: or a second VLM     a fresh one, or a pretrained one
    vocabulary           h's own                VLKEB: h's own; LiveEdit: the        the VLM's, between linear maps that
                                                VLM's, between residual blocks       begin as identities
    memory               x_e and y_e            VLKEB: text; LiveEdit: embeddings    text: the scope has seen the image
                                                of image and text
    locality             no term                KL from the VLM to h                 no term: h answers in scope only

With ``scope="both"`` a query without image never belongs to an edit with one, nor the other way
round. Where a decoder has several residual streams, the first of which begins as the embeddings, h
reads that one and writes all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import transformers
from annotated_types import Gt, Lt
from torch import Tensor, nn

from liveedit.editors import PAPERS
from liveedit.editors.base import Example, alone
from liveedit.editors.common.attention import Part, image_and_prompt, own_similarity, similarity
from liveedit.editors.common.extractors import EditSide, MetricExtractor
from liveedit.editors.common.feed_forward import Recorder
from liveedit.editors.common.hard_negatives import contrast, log_odds
from liveedit.editors.common.losses import nll
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
from liveedit.editors.liveedit.editor import image_tokens
from liveedit.editors.liveedit.sampling import EDIT
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models import checkpoint
from liveedit.models.batch import Batch, HiddenBatch, Spans, going_on
from liveedit.models.calls import CACHE
from liveedit.models.patch import INPUT, SiteFn
from liveedit.models.streams import apart_at_first
from liveedit.models.vlm import VLM, reading
from liveedit.settings import Count, Index, Share
from liveedit.types import Query

__all__ = ["Counterfactual", "Serac", "SeracConfig", "SeracPatch"]

INPUTS = f"layers.0{INPUT}"
"""The site of what the first layer takes in."""


@dataclass(frozen=True)
class SeracConfig:
    """Settings. The scope reads what the decoder ``layer`` puts out
    (:attr:`TrainableEditor.layer`).

    ``scope`` is what it may see.

    ``module_dim``, ``heads`` and ``queries`` are the sizes of its keys (d_m and k of LiveEdit),
    ``drop`` is the share of image and prompt tokens hidden from it in training. A query is in scope
    above ``threshold``. ``counterfactual`` is a pretrained decoder-only language model, by folder
    or Hugging Face id, or ``None`` for a fresh one of ``width`` and ``depth``. ``tokens`` is the
    most that the text of an edit may have, ``written`` how many examples of a batch train the
    counterfactual model, ``None`` for all, and ``fresh`` the share of these whose answers are
    exchanged for random tokens, so that it learns to read and not the answers. ``eos`` ends every
    target with the end of text.
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
    """h: a causal transformer between two linear maps, from the VLM's embeddings to what its last
    layer puts out.
    """

    def __init__(self, vlm: VLM, source: str | None, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if source is None:
            nameless = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
            sizes = {
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "num_hidden_layers": depth,
            }
            spread = {"initializer_range": width**-0.5, "num_attention_heads": heads}
            self.model = transformers.LlamaModel(
                transformers.LlamaConfig(vocab_size=1, **nameless, **sizes, **spread)
            )
        else:
            with reading(source):
                self.model = transformers.AutoModel.from_pretrained(
                    checkpoint(source), dtype=torch.float32
                )
            width = self.model.get_input_embeddings().embedding_dim
            self.model.set_input_embeddings(nn.Embedding(1, width))  # never read
        self.model.eval()
        self.reads, self.writes = (
            nn.Linear(vlm.hidden_size, width),
            nn.Linear(width, vlm.state_size),
        )
        for linear in (self.reads, self.writes):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, embeddings: Tensor, mask: Tensor, cache: transformers.DynamicCache | None = None
    ) -> Tensor:
        """States (B, n, ·) for ``embeddings`` (B, n, D), the last n tokens of rows, real where
        ``mask`` (B, N) says.

        The tokens before them, if any, are in ``cache``.
        """
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        states = self.model(
            inputs_embeds=self.reads(embeddings),
            attention_mask=mask,
            position_ids=places,
            use_cache=cache is not None,
            **{CACHE: cache},
        ).last_hidden_state
        return self.writes(states)  # type: ignore[no-any-return]


class SeracPatch(MemoryPatch):
    """``bank`` holds keys (E, k, d_m), ``pictured`` (E,) and the ``tokens`` (E, n) of each edit's
    text, -1 beyond.
    """

    FILE = "serac.safetensors"
    editor: "Serac"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The sites are where h reads, where the scope reads, and where h
        writes.
        """
        if not len(self):
            return {}
        work, layers = Answering(self, batch), self.editor.vlm.num_layers
        return {
            INPUTS: work.read,
            f"layers.{self.editor.layer}": work.choose,
            f"layers.{layers - 1}": work.answer,
        }


class Answering:
    """A patch at work on one batch: called at its three sites for the prompt, then for each decoded
    token.
    """

    def __init__(self, patch: SeracPatch, batch: Batch) -> None:
        self.patch, self.batch = patch, batch
        self.newest: Tensor | None = None
        self.rows: list[int] | None = None
        self.edits: list[int] = []
        self.mask = torch.empty(0)
        self.told = self.length = 0
        """How many tokens of edits h has read, and how many of the rows after these."""
        self.cache = transformers.DynamicCache()

    def read(self, x: Tensor) -> Tensor:
        """Keep what the first layer takes in for the newest tokens, (B, T', D)."""
        self.newest = self.patch.editor.stream(x)
        return x

    @torch.no_grad()
    def choose(self, hidden: Tensor) -> Tensor:
        """Find on the prompt, by the scope, the edit that each row belongs to."""
        if self.rows is None:
            editor, bank, found = self.patch.editor, self.patch.bank, self.patch.found
            image, prompt = image_and_prompt(editor.seen(hidden, self.batch), self.batch.spans)
            odds = editor.odds(image, prompt, self.batch.spans, bank.tensors())
            self.rows, self.edits, self.batch.fired[self.patch] = found(
                odds.sigmoid(), editor.config.threshold
            )
        return hidden

    @torch.no_grad()
    def answer(self, output: Tensor) -> Tensor:
        """The last layer's output (B, T', D) with h's in the rows in scope; the very same object if
        there are none.
        """
        if not self.rows or self.newest is None:
            return output
        editor = self.patch.editor
        device = editor.device
        x = self.newest[self.rows].to(device).float()
        before, self.length = self.length, self.length + x.shape[1]
        if not before:
            text, real = editor.texts(self.patch.bank["tokens"][self.edits])
            x, self.told = torch.cat([text, x], 1), text.shape[1]
            self.mask = torch.cat(
                [real, self.batch.inputs["attention_mask"][self.rows].to(real)], 1
            )
        stop = self.told + self.length
        self.mask = nn.functional.pad(self.mask, (0, max(0, stop - self.mask.shape[1])), value=1)
        states = editor.counterfactual(x, self.mask[:, :stop], self.cache)[
            :, -self.newest.shape[1] :
        ]
        return output.index_copy(
            0, torch.tensor(self.rows, device=output.device), states.to(output)
        )

    def rewind(self, length: int) -> None:
        """Go on behind the first ``length`` tokens of the rows."""
        if self.rows and self.length > length:
            self.cache.crop(length - self.length)
            self.length = length

    def reorder(self, rows: Tensor) -> None:
        """Go on behind other rows: row i behind row ``rows[i]``."""
        if self.rows:
            self.rows, before = going_on(self.rows, rows)
            chosen = torch.tensor(before, dtype=torch.long, device=self.mask.device)
            self.mask = self.mask[chosen]
            self.cache.reorder_cache(chosen)


class Serac(MemoryEditor):
    """The editor: the scope's extractor on both sides, and the counterfactual model."""

    name = "serac"
    paper = PAPERS["serac"]
    Config = SeracConfig
    patch_class = SeracPatch
    query_time = frozenset({"threshold", "generality", "locality"})
    config: SeracConfig

    def __init__(self, vlm: VLM, config: SeracConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(self.layer)
        if self.layer == vlm.num_layers - 1:
            raise BadInput(
                "the last layer is where the counterfactual model writes: let the scope read a lower one"
            )
        if c.module_dim % c.heads or c.width % c.heads:
            raise BadInput(
                f"{c.heads} heads do not divide widths {c.module_dim} and {c.width}: change heads"
            )
        if apart_at_first(vlm.decoder):
            raise UnsupportedModel(
                "serac reads what the first layer takes in, which here is in streams"
            )
        width = vlm.state_size if c.scope == "both" else vlm.hidden_size
        self.input_features = MetricExtractor(
            width, c.module_dim, c.heads, c.queries, image_tokens(vlm)
        )
        self.edit_features = EditSide(self.input_features)
        self.counterfactual = Counterfactual(vlm, c.counterfactual, c.width, c.depth, c.heads)
        parts = ("input_features", "edit_features", "counterfactual")
        self._networks = nn.ModuleDict({name: getattr(self, name) for name in parts}).to(vlm.device)

    def networks(self) -> nn.ModuleDict:
        """The scope's extractors and the counterfactual model."""
        return self._networks

    # Editing

    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """See :meth:`MemoryEditor.entries`. Raises :class:`BadInput` for an edit whose text is too
        long.
        """
        batch = self.vlm.encode(queries, eos=self.config.eos)
        states = self.seen(self.vlm.hidden(batch, self.layer).hidden, batch)
        image, prompt = image_and_prompt(states, batch.spans)
        tokens = torch.full((len(batch), self.config.tokens), NO_TOKEN, device=self.device)
        for row, span in enumerate(batch.spans):
            text = self.text(batch.inputs["input_ids"][row], span)
            tokens[row, : len(text)] = text
        return self.keys(image, prompt) | {
            "pictured": pictured(batch.spans, self.device),
            "tokens": tokens,
        }

    def nothing(self) -> dict[str, Tensor]:
        """See :meth:`MemoryEditor.nothing`."""
        c = self.config
        key, tokens = (
            torch.empty(0, c.queries, c.module_dim),
            torch.empty(0, c.tokens, dtype=torch.long),
        )
        return {
            "vision_keys": key,
            "text_keys": key,
            "pictured": torch.empty(0, dtype=torch.bool),
            "tokens": tokens,
        }

    def text(self, ids: Tensor, span: Spans) -> Tensor:
        """The tokens of prompt and answer of an edit, out of its row ``ids`` (T,)."""
        text = ids[span.prompt[0] : span.stop]
        if len(text) > self.config.tokens:
            raise BadInput(
                f"an edit with a text of {len(text)} tokens: this editor keeps at most {self.config.tokens}"
            )
        return text

    def texts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, n, D) of edits' ``tokens`` (B, …), and which of them are real (B, n)."""
        real = tokens != NO_TOKEN
        longest = int(real.sum(1).max())
        return self.words(tokens[:, :longest]), real[:, :longest].long()

    def stream(self, x: Tensor) -> Tensor:
        """The embeddings (B, T, D) in what the first layer takes in: the first of its residual
        streams.
        """
        return x[..., : self.vlm.hidden_size]

    # Scope

    def seen(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What the scope may see: the states of its layer, or word embeddings, which know of no
        image, (B, T, D).
        """
        if self.config.scope == "both":
            return hidden.to(self.device)
        return self.words(batch.inputs["input_ids"])

    def keys(self, image: Part, prompt: Part) -> dict[str, Tensor]:
        """φ̂ and ψ̂ of edits, (E, k, d_m)."""
        hat = self.edit_features
        return {"vision_keys": hat.vision_key(image, prompt), "text_keys": hat.text_key(prompt)}

    def odds(
        self, image: Part, prompt: Part, spans: Sequence[Spans], edits: dict[str, Tensor]
    ) -> Tensor:
        """L (B, E): the log-odds that each query is in the scope of each of the edits."""
        bar = self.input_features
        z = similarity(bar.text_key(prompt), edits["text_keys"])
        if self.config.scope == "text":
            return z
        phi = bar.vision_key(image, prompt)
        margin = (
            similarity(phi, edits["vision_keys"])
            - own_similarity(phi, bar.sentinel_key(prompt))[:, None]
        )
        shown = edits["pictured"].expand_as(z)
        return torch.where(shown, log_odds(margin, z), z).masked_fill(
            ~kindred(spans, edits["pictured"]), NEVER
        )

    # Training

    def observe(self, asked: Sequence[Asked]) -> None:
        """See :meth:`MemoryEditor.observe`."""
        record, batch = (
            Recorder(INPUTS),
            self.vlm.encode([query for *_, query in asked], eos=self.config.eos),
        )
        with self.vlm.patched(record):
            hidden = self.vlm.hidden(batch, self.layer)
        rows = replace(hidden, hidden=self.seen(hidden.hidden, batch)).rows()
        inputs = replace(hidden, hidden=self.stream(record.seen[INPUTS])).rows()
        ids = batch.inputs["input_ids"]
        for (example, kind, _), row, taken, text, span in zip(
            asked, rows, inputs, ids, batch.spans, strict=True
        ):
            example.rows[kind] = alone(row)
            if kind not in self.config.locality:
                example.inputs[kind] = alone(taken)
            if kind == EDIT:
                example.text = self.text(text, span).cpu().clone()
                example.answer = text[slice(*span.answer)].cpu().clone()

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        written = [
            example for example in examples[: self.config.written] if isinstance(example, Memory)
        ]
        terms = self.answer_terms(written, generator) | {
            "scope": self.scope_term(examples, generator)
        }
        return torch.stack(list(terms.values())).sum(), terms

    def answer_terms(
        self, examples: Sequence[Memory], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """(3) for each kind of queries in scope, averaged over its rows."""
        names = self.names(examples, EDIT, *self.config.generality)
        written = self.written(examples, names, generator)
        rows, (text, real) = written.rows, self.texts(written.text[[j for _, j in names]])
        mask = torch.cat([real, rows.attention_mask], 1)
        states = self.counterfactual(torch.cat([text, rows.hidden], 1), mask)[:, text.shape[1] :]
        positions = rows.answer_positions()
        last = replace(rows, hidden=states.to(self.vlm.dtype))
        logits = self.vlm.resume(self.vlm.num_layers - 1, last, positions)
        loss = nll(
            logits, rows.labels.roll(-1, 1)[positions], positions.nonzero()[:, 0], len(names)
        )
        kinds = dict.fromkeys(kind for kind, _ in names)
        return {
            kind: loss[[at for at, (other, _) in enumerate(names) if other == kind]].mean()
            for kind in kinds
        }

    def scope_term(self, examples: Sequence[Example], generator: torch.Generator) -> Tensor:
        """(2) for every query of the batch and every edit of it, rivals left out, averaged over the
        queries.
        """
        c = self.config
        names = self.names(examples, EDIT, *c.generality, *c.locality)
        rows = HiddenBatch.stack([examples[j].rows[kind] for kind, j in names]).to(self.device)
        edits, dice = torch.arange(len(examples), device=self.device), generator
        image, prompt = image_and_prompt(rows.hidden, rows.spans)
        keys = self.keys(
            image.pick(edits).drop(c.drop, dice), prompt.pick(edits).drop(c.drop, dice)
        )
        keys["pictured"] = pictured(rows.spans[: len(examples)], self.device)
        odds = self.odds(image.drop(c.drop, dice), prompt.drop(c.drop, dice), rows.spans, keys)
        own, rivals = belonging(examples, names, c.locality)
        return contrast(odds.masked_fill(rivals.to(self.device), NEVER), own.to(self.device))
