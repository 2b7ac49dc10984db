"""Calibration: what direct learns of a model from a background, once; it is kept with the edits.

Reading a background takes the model some hundred images. Whoever opens a store of direct's edits
later reads its calibration instead, and so gets the same keys and thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from liveedit.data.background import RELATIONS
from liveedit.editors.direct.background import Background
from liveedit.editors.direct.keys import KeySpace
from liveedit.editors.direct.threshold import Reach, question_reach

__all__ = ["Calibration"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Keys and thresholds that direct has learned from a background.

    Arguments:
        space: The space of keys.
        images: Keys of the images that set τ_v, (M, D).
        reach: τ_t and τ_q.
    """

    space: KeySpace
    images: Tensor
    reach: Reach

    @classmethod
    def learned(cls, background: Background, meanings: Sequence[str], rate: float) -> "Calibration":
        """The calibration for a background; see :meth:`KeySpace.learned` for ``meanings``.

        ``rate`` is that at which other questions may be within reach.
        """
        space = KeySpace.learned(background, meanings)
        asked = list[Tensor]()
        for sort, read in background.sorts.items():
            keys = space.question_keys(read)
            asked.append(keys.view(-1, len(RELATIONS[sort]), keys.shape[1]))
        images = space.image_keys(background.apart)
        return cls(space, images, question_reach(asked, rate))

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, by name."""
        space = {field.name: getattr(self.space, field.name) for field in fields(KeySpace)}
        reach = torch.tensor(self.reach, dtype=torch.float64)
        return space | {"images": self.images, "reach": reach}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Calibration":
        """The calibration whose :meth:`tensors` these are."""
        rest = dict(tensors)
        images = rest.pop("images")
        reach = Reach(*rest.pop("reach").tolist())
        return cls(KeySpace(**rest), images, reach)
