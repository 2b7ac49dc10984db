"""Thresholds of direct, for a stated rate of false firing.

An edit fires on a query whose question key and image key are close enough to its own:

    ⟨k_q, k̂_q⟩ > τ_q   and   ⟨k_v, k̂_v⟩ > τ_v

τ_q is set for the two questions that are hardest to tell apart: whichever two different questions
of the background are asked about an image, at most a stated share of the images exceed it. On
average over all questions it is exceeded far less often.

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
from itertools import combinations
from math import floor

import torch
from torch import Tensor

__all__ = ["OWN", "conformal", "image_threshold", "question_threshold"]

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


def question_threshold(asked: Sequence[Tensor], rate: float) -> float:
    """τ_q, given the keys (M, R, D) of M images that are asked R questions each, for each sort."""
    least = -1.0
    for keys in filter(len, asked):
        alike = torch.einsum("mid,mjd->ijm", keys, keys)
        for one, other in combinations(range(keys.shape[1]), 2):
            least = max(least, conformal(alike[one, other], rate))
    return least


def image_threshold(
    images: Tensor, vision: Tensor, questions: Tensor, asked: Tensor, reach: float, rate: float
) -> float:
    """τ_v for a pool with the keys ``vision`` (E, D) and ``questions`` (E, 2 · D).

    ``images`` (M, D) are the keys of the background's images, ``asked`` (E,) the numbers of the
    edits' questions, and ``reach`` is τ_q. A pool without images never fires on one: 1.
    """
    shown = ~vision[:, 0].isnan()
    if not bool(shown.any()):
        return 1.0
    vision = vision[shown]
    questions = questions[shown]
    drawn = questions[_drawn(len(images), asked.to(vision.device)[shown])]
    nearest = torch.full((len(images),), -1.0, device=vision.device)
    for start in range(0, len(vision), CHUNK):
        part = slice(start, start + CHUNK)
        reached = drawn @ questions[part].T > reach
        found = (images @ vision[part].T).masked_fill(~reached, -1.0)
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
