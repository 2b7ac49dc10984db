"""Thresholds of direct, for a stated rate of false firing.

An edit fires on a query whose question key and image key are close enough to its own:

    ⟨k_v, k̂_v⟩ > τ_v   and   ( ⟨t, t̂⟩ > τ_t   or   ⟨q, q̂⟩ > τ_q )

t and q are the halves of a question's key: the words alone, which are the same about every image,
and what is asked of this image, in whatever words. Each of τ_t and τ_q is exceeded by at most a
stated share of the pairs of different questions of one sort that are asked about the same image of
the background, for the sort that is harder to tell apart.

τ_v depends on the pool: the more edits it holds, the nearer is the nearest of them to an image of
something else. So each image of the background is asked the question of an edit in the pool, drawn
at random, and the similarity of the nearest edit that this question reaches is noted; τ_v is
exceeded by a stated share of these. By the usual argument of split conformal prediction (Vovk et
al., 2005) an unrelated image that is asked an edit's question then makes the pool fire with at most
the stated probability, as far as the background is like the images asked.

Neither threshold exceeds :data:`OWN`, so that an edit always fires on its own query, also on a
model whose features do not tell inputs apart; the stated rates cannot hold there.

The draw is the edit with the smallest hash of (image, edit). It depends neither on the order of the
edits nor on edits that were taken back. With each edit the next is found from the last one: few
images are asked another question by it, the fewer the larger the pool.

Shapes: E edits, M images of the background, D width of a key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OWN", "Edits", "Nearest", "Reach", "conformal", "nearest_edits", "question_reach"]

ODD = 0x9E3779B97F4A7C15
"""A multiplier that spreads small numbers over 64 bits."""
OWN = 0.99
"""Largest threshold: a key read again, in another batch or in bfloat16, is closer than this."""
CHUNK = 4096
"""Edits that are compared with the background at a time."""


def conformal(scores: Tensor, rate: float) -> float:
    """The least threshold that a further score exceeds with at most probability ``rate``.

    ``scores`` (M,) are those of the background, exchangeable with the further one. Where M is too
    small for the rate, it is the largest of them; it never exceeds :data:`OWN`.
    """
    exceeding = max(0, floor(rate * (len(scores) + 1)) - 1)
    return min(OWN, float(scores.sort(descending=True).values[exceeding]))


class Reach(NamedTuple):
    """τ_t and τ_q."""

    alone: float
    asked: float

    def compared(self, questions: Tensor, edits: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine of each of ``questions`` (B, 2 · D) and each of ``edits`` (E, 2 · D), and what
        it has to exceed, both (B, E), by the half of the keys that comes nearer to that.
        """
        alone, asked = (
            question @ edit.T
            for question, edit in zip(questions.chunk(2, 1), edits.chunk(2, 1), strict=True)
        )
        by_words = alone - self.alone > asked - self.asked
        threshold = torch.where(by_words, self.alone, self.asked)
        return torch.where(by_words, alone, asked), threshold.to(alone)

    def above(self, questions: Tensor, edits: Tensor) -> Tensor:
        """How far the cosines of :meth:`compared` are above their thresholds, (B, E)."""
        cosine, threshold = self.compared(questions, edits)
        return cosine - threshold


def question_reach(asked: Sequence[Tensor], rate: float) -> Reach:
    """τ_t and τ_q, given the keys (M, R, 2 · D) of M images that are asked R questions each, for
    each sort of questions.
    """
    halves = zip(*(keys.chunk(2, -1) for keys in asked if len(keys)), strict=True)
    return Reach(*(_hardest(half, rate) for half in halves))


def _hardest(asked: Sequence[Tensor], rate: float) -> float:
    """The threshold for the sort with the largest; ``asked`` are halves of the keys."""
    least = -1.0
    for keys in asked:
        alike = torch.einsum("mid,mjd->mij", keys, keys)
        one, other = torch.triu_indices(keys.shape[1], keys.shape[1], 1)
        least = max(least, conformal(alike[:, one, other].flatten(), rate))
    return least


class Edits(NamedTuple):
    """The edits of a pool as τ_v depends on them: their keys and questions, and which hold."""

    vision: Tensor
    """(E, D), NaN for an edit without an image."""
    questions: Tensor
    """(E, 2 · D)"""
    asked: Tensor
    """(E,)"""
    in_force: Tensor
    """Boolean (E,)."""

    def shown(self, start: int = 0) -> Tensor:
        """The edits from ``start`` on that are in force and have an image, (n,)."""
        shown = ~self.vision[start:, 0].isnan()
        return start + (shown & self.in_force[start:]).nonzero()[:, 0]

    def holds(self, index: Tensor) -> Tensor:
        """Which of the edits at ``index`` (M,) are in force; -1 stands for none."""
        return (index >= 0) & self.in_force[index.clamp(min=0)]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest edit to each image of the background that is asked an edit's question.

    Arguments:
        drawn: The edit whose question it is asked, (M,); -1 where no edit has an image.
        edit: The nearest edit, (M,); -1 for none.
        cosine: That of the image and that edit, (M,); -1 for none.
        count: Number of edits E that were looked at.
    """

    drawn: Tensor
    edit: Tensor
    cosine: Tensor
    count: int

    @classmethod
    def of_none(cls, images: Tensor) -> "Nearest":
        """That of images (M, D) before there is an edit."""
        none = torch.full((len(images),), -1, device=images.device)
        return cls(none, none, none.float(), 0)

    def threshold(self, rate: float) -> float:
        """τ_v for a rate. A pool without images never fires on one: 1."""
        if not bool((self.drawn >= 0).any()):
            return 1.0
        return conformal(self.cosine, rate)


def nearest_edits(
    images: Tensor, edits: Edits, reach: Reach, earlier: Nearest | None = None
) -> Nearest:
    """The nearest edits to the background's ``images`` (M, D), for :attr:`Nearest.threshold`.

    ``earlier`` is what was found when the pool had only its first edits. Then an image is compared
    with the others alone, unless one of them is drawn for it, or its own edits lost their force.
    """
    known = earlier or Nearest.of_none(images)
    if not len(edits.asked):
        return known
    new = edits.shown(known.count)
    drawn = _drawn(len(images), edits.asked, new, known.drawn)
    same = (drawn == known.drawn) & edits.holds(drawn)
    same &= (known.edit < 0) | edits.holds(known.edit)
    found = torch.full_like(drawn, -1)
    found[same] = _search(images[same], edits, reach, drawn[same], new)
    if not bool(same.all()):
        every = edits.shown()
        drawn[~same] = _drawn(len(images), edits.asked, every)[~same]
        found[~same] = _search(images[~same], edits, reach, drawn[~same], every)
    cosine = _cosines(images, edits, found)
    kept = same & (known.cosine >= cosine)
    nearest = torch.where(kept, known.edit, found)
    cosine = torch.where(kept, known.cosine, cosine)
    return Nearest(drawn, nearest, cosine, len(edits.asked))


def _search(images: Tensor, edits: Edits, reach: Reach, drawn: Tensor, some: Tensor) -> Tensor:
    """For each image, asked the question of the edit ``drawn``, the nearest of ``some`` edits that
    this reaches, (M,); -1 for none.
    """
    best = torch.full((len(images),), -1.0, device=images.device)
    found = torch.full_like(drawn, -1)
    asked = edits.questions[drawn].float()
    for part in _chunks(some):
        reached = reach.above(asked, edits.questions[part].float()) > 0
        cosine = (images @ edits.vision[part].float().T).masked_fill(~reached, -1.0)
        here, place = cosine.max(1)
        found = torch.where(here > best, part[place], found)
        best = torch.maximum(best, here)
    return found


def _cosines(images: Tensor, edits: Edits, nearest: Tensor) -> Tensor:
    """The cosines (M,) of images and the edits ``nearest`` (M,); -1 where that is none.

    Each is found by itself, so that it does not depend on what is compared along with it.
    """
    keys = edits.vision[nearest.clamp(min=0)].double()
    cosine = (images.double() * keys).sum(1).float()
    return cosine.masked_fill(nearest < 0, -1.0)


def _drawn(count: int, asked: Tensor, some: Tensor, drawn: Tensor | None = None) -> Tensor:
    """For each of ``count`` images the edit whose question it is asked, (M,), among ``some``
    edits and those ``drawn`` (M,) before; -1 for none.
    """
    offsets = [image * ODD % 2**62 for image in range(count)]
    images = torch.tensor(offsets, device=asked.device)
    found = torch.full_like(images, -1) if drawn is None else drawn.clone()
    least = _mixed(asked[found.clamp(min=0)] + images)
    least = least.masked_fill(found < 0, torch.iinfo(torch.long).max)
    for part in _chunks(some):
        here, place = _mixed(asked[part] + images[:, None]).min(1)
        found = torch.where(here < least, part[place], found)
        least = torch.minimum(least, here)
    return found


def _chunks(edits: Tensor) -> tuple[Tensor, ...]:
    """Edits (n,), :data:`CHUNK` at a time; no chunk where there are none."""
    return torch.split(edits, CHUNK) if len(edits) else ()


def _mixed(values: Tensor) -> Tensor:
    """A hash of each of ``values``, of type long, which wraps around."""
    values = (values ^ (values >> 30)) * -0x40A7B892E31B1A47
    values = (values ^ (values >> 27)) * -0x6B2FB644ECCEEE15
    return (values ^ (values >> 31)) & 0x7FFFFFFFFFFFFFFF
