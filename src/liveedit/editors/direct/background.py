"""The background: unrelated queries that show what a model's features look like without an edit.

From half of its images `direct` learns what is common to all images and questions. With the other
half, each asked two questions that differ in meaning, it sets its thresholds: what was learned from
an image fits it better than any other, so that a threshold set with it would be too low.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from liveedit.data.emblem.cases import shared_emblem
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, wordings
from liveedit.data.images import open_image
from liveedit.editors.common.attention import cut
from liveedit.editors.common.examples import chunks
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, HiddenBatch, Spans
from liveedit.models.vlm import VLM
from liveedit.types import Query, expanded

__all__ = [
    "Background",
    "Features",
    "background_queries",
    "features",
    "read_background",
    "read_features",
    "texts_alone",
]

LEAST = 16
"""Images that a background must have."""
RELATIONS = {
    sort: [name for name, relation in IMAGE_RELATIONS.items() if relation.sort == sort]
    for sort in ("emoji", "flag")
}
"""The relations that are asked about a sort of drawing, which are harder to tell apart."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Features:
    """Each row's image and question as a frozen model reads them, at one layer, in float32.

    Arguments:
        image: Mean state of the image tokens, (B, D); NaN for a row without image.
        alone: State of the last prompt token if the text is read without the image, (B, D).
        asked: The same with the image, (B, D).
    """

    image: Tensor
    alone: Tensor
    asked: Tensor

    @property
    def shown(self) -> Tensor:
        """The rows with an image, boolean (B,)."""
        return ~self.image[:, 0].isnan()

    @classmethod
    def cat(cls, parts: "Sequence[Features]") -> "Features":
        """The rows of several batches."""
        return cls(
            torch.cat([part.image for part in parts]),
            torch.cat([part.alone for part in parts]),
            torch.cat([part.asked for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Background:
    """Features of n queries of each sort.

    Arguments:
        common: Half of the images with a question each.
        alone: These questions without an image.
        first: The other images with a question each.
        second: The same with other questions.
    """

    common: Features
    alone: Features
    first: Features
    second: Features


def read_features(vlm: VLM, layer: int, batch: Batch) -> tuple[Features, HiddenBatch]:
    """The features of a batch at ``layer``, and its states there."""
    hidden = vlm.hidden(batch, layer)
    return features(hidden.hidden, hidden.spans, texts_alone(vlm, layer, batch)), hidden


def features(hidden: Tensor, spans: Sequence[Spans], alone: Tensor) -> Features:
    """The features of rows with the states ``hidden`` (B, T, D), given :func:`texts_alone`."""
    image = cut(hidden, [span.image for span in spans])
    shown = image.mask[..., None]
    mean = (image.states * shown).sum(1) / shown.sum(1)  # 0 / 0 without an image: NaN
    last = cut(hidden, [(span.prompt[1] - 1, span.prompt[1]) for span in spans])
    return Features(mean, alone.to(mean), last.states[:, 0])


@torch.no_grad()
def texts_alone(vlm: VLM, layer: int, batch: Batch) -> Tensor:
    """:attr:`Features.alone` of a batch: its texts go through the model once more, without images.

    A question's last state would otherwise depend on the image, which it has read.
    """
    texts = _texts(vlm, batch)
    found: dict[tuple[int, ...], Tensor] = {}
    for chunk in chunks(list(dict.fromkeys(texts))):
        with vlm.unpatched():
            hidden = vlm.hidden(vlm.encode_tokens(chunk), layer)
        rows = torch.arange(len(chunk), device=hidden.hidden.device)
        last = hidden.hidden[rows, hidden.last_prompt_tokens()].float()
        found |= dict(zip(chunk, last, strict=True))
    return torch.stack([found[text] for text in texts])


def _texts(vlm: VLM, batch: Batch) -> list[tuple[int, ...]]:
    """The token ids of each row's prompt without those of images."""
    ids = batch.inputs["input_ids"]
    images = vlm.image_tokens(ids)
    texts = []
    for row, span in enumerate(batch.spans):
        prompt = slice(span.start, span.prompt[1])
        texts.append(tuple(ids[row, prompt][~images[row, prompt]].tolist()))
    return texts


def background_queries(folder: str, most: int) -> dict[str, list[Query]]:
    """The queries of the background, by the names of the fields of :class:`Background`.

    ``folder`` holds the user's images; empty stands for the drawings that ship with the package. At
    ``most`` so many are taken, drawn at random.
    """
    chance = random.Random(0)
    names = ("common", "alone", "first", "second")
    queries: dict[str, list[Query]] = {name: [] for name in names}
    images = _from_folder(expanded(folder), most) if folder else _shipped(most)
    for number, (sort, image) in enumerate(images):
        relations = RELATIONS[sort or chance.choice(sorted(RELATIONS))]
        asked, other = (_question(name, chance) for name in chance.sample(relations, 2))
        if number % 2:
            queries["common"].append(Query(asked, image=image))
            queries["alone"].append(Query(asked))
        else:
            queries["first"].append(Query(asked, image=image))
            queries["second"].append(Query(other, image=image))
    return queries


def _question(relation: str, chance: random.Random) -> str:
    """A wording of a relation's question."""
    return chance.choice(wordings(IMAGE_RELATIONS[relation], "seen"))


def _shipped(most: int) -> Iterator[tuple[str, Image.Image]]:
    """Drawings of training entities, each by one artist, with their sort."""
    emblem = shared_emblem()
    chance = random.Random(0)
    entities = emblem.part("train")
    for entity in chance.sample(entities, min(most, len(entities))):
        yield entity.sort, emblem.drawing(chance.choice(entity.seen_artists), entity.id)


def _from_folder(folder: Path, most: int) -> Iterator[tuple[str, Image.Image]]:
    """At ``most`` so many images of a folder.

    Raises :class:`BadInput` where there are too few.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: give one with images of what users ask about")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(found) < LEAST:
        raise BadInput(
            f"{folder} has {len(found)} images, too few for a threshold: give at least {LEAST}, "
            "or leave background empty"
        )
    for file in random.Random(0).sample(found, min(most, len(found))):
        yield "", open_image(file)


@torch.no_grad()
def read_background(vlm: VLM, layer: int, queries: Mapping[str, Sequence[Query]]) -> Background:
    """The features of :func:`background_queries` at ``layer`` of a model, on its device."""
    with vlm.unpatched():
        return Background(**{name: _read(vlm, layer, queries[name]) for name in queries})


def _read(vlm: VLM, layer: int, queries: Sequence[Query]) -> Features:
    """The features of queries."""
    return Features.cat(
        [read_features(vlm, layer, vlm.encode(some))[0] for some in chunks(queries)]
    )
