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
edits nor on edits that were taken back.

Shapes: E edits, M images of the background, D width of a key.
"""

from collections.abc import Sequence
from math import floor
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OWN", "Reach", "conformal", "image_threshold", "question_reach"]

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


def image_threshold(
    images: Tensor, vision: Tensor, questions: Tensor, asked: Tensor, reach: Reach, rate: float
) -> float:
    """τ_v for a pool with the keys ``vision`` (E, D) and ``questions`` (E, 2 · D).

    ``images`` (M, D) are the keys of the background's images, ``asked`` (E,) the numbers of the
    edits' questions, and ``reach`` holds τ_t and τ_q. A pool without images never fires on one: 1.
    """
    shown = ~vision[:, 0].isnan()
    if not bool(shown.any()):
        return 1.0
    vision = vision[shown]
    questions = questions[shown]
    drawn = questions[_drawn(len(images), asked.to(vision.device)[shown])].float()
    nearest = torch.full((len(images),), -1.0, device=vision.device)
    for start in range(0, len(vision), CHUNK):
        part = slice(start, start + CHUNK)
        reached = reach.above(drawn, questions[part].float()) > 0
        found = (images @ vision[part].float().T).masked_fill(~reached, -1.0)
        nearest = torch.maximum(nearest, found.amax(1))
    return conformal(nearest, rate)


def _drawn(count: int, asked: Tensor) -> Tensor:
    """For each of ``count`` images the index of the edit whose question it is asked, (M,)."""
    drawn = torch.zeros(count, dtype=torch.long, device=asked.device)
    for image in range(count):
        drawn[image] = _mixed(asked + image * ODD % 2**62).argmin()
    return drawn


def _mixed(values: Tensor) -> Tensor:
    """A hash of each of ``values``, of type long, which wraps around."""
    values = (values ^ (values >> 30)) * -0x40A7B892E31B1A47
    values = (values ^ (values >> 27)) * -0x6B2FB644ECCEEE15
    return (values ^ (values >> 31)) & 0x7FFFFFFFFFFFFFFF
