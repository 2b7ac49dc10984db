"""Keys of direct: frozen features of image and question, as vectors of length one.

Raw features of a language model are nearly parallel: a direction that all inputs share carries most
of their length. The mean of a background is therefore subtracted:

    k_v = norm(v − μ_v)
    k_q = (norm(t − μ_t) ⊕ norm(q − μ_q)) / √2

v is the feature of the image. A question is read twice: t is its last state without the image, the
same for every image, and q the one with it, which knows what is asked of this image even in other
words. Texts without an image have a μ_t of their own, and t in place of q.

The question of an edit has the mean of its own key and those of its variants in other words, as
long as it is itself within reach of that: the mean is nearer to further wordings.

Shapes: B rows, D width of the text decoder.
"""

from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from liveedit.editors.direct.background import Background, Features

__all__ = ["KeySpace", "middle"]


class KeySpace:
    """Turns features into keys, as learned from a background."""

    def __init__(self, background: Background) -> None:
        self.background = background
        common = background.common
        self.image_mean = common.image.mean(0)
        self.asked_mean = common.asked.mean(0)
        self.text_means = torch.stack([background.alone.alone.mean(0), common.alone.mean(0)])

    def keys(self, features: Features) -> tuple[Tensor, Tensor]:
        """k_v (B, D), NaN without an image, and k_q (B, 2 · D)."""
        return self.image_keys(features), self.question_keys(features)

    def image_keys(self, features: Features) -> Tensor:
        """k_v (B, D); NaN without an image."""
        return normalize(features.image - self.image_mean, dim=-1)

    def question_keys(self, features: Features) -> Tensor:
        """k_q (B, 2 · D)."""
        shown = features.shown
        text = normalize(features.alone - self.text_means[shown.long()], dim=-1)
        asked = normalize(features.asked - self.asked_mean, dim=-1)
        return torch.cat([text, torch.where(shown[:, None], asked, text)], 1) / sqrt(2)


def middle(keys: Tensor, reach: float) -> Tensor:
    """The mean direction (D,) of ``keys`` (n, D), whose first is an edit's own.

    It is the edit's own key where that is not nearer to the mean than ``reach``.
    """
    mean = normalize(keys.mean(0), dim=-1)
    return mean if float(mean @ keys[0]) > reach else keys[0]
