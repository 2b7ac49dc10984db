"""Patches that the checks apply: a routed one, one of weights, one of vectors before a text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from liveedit.models.batch import Batch
from liveedit.models.patch import Patch, SiteFn
from liveedit.models.runner import ModelRunner

__all__ = ["Nudged", "Prefix", "Routed", "Weights"]


class Routed(Patch):
    """Patch that acts as a routed expert does.

    In the first call at its site it computes a key from image and prompt. In this call and later
    ones it adds the scaled key to every token.
    """

    def __init__(self, layer: int, scale: float | Tensor = 4.0, site: str = "layers.{}") -> None:
        self.site = site.format(layer)
        self.scale = scale
        self.bound = 0
        """How often :meth:`bind` was called."""
        self.seen: list[tuple[int, ...]] = []
        """The shapes of the states in all calls at the site."""

    def __len__(self) -> int:
        return 1

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """One function at the patch's site."""
        self.bound += 1
        keys: list[Tensor] = []

        def act(states: Tensor) -> Tensor:
            self.seen.append(tuple(states.shape))
            if not keys:
                keys.append(route(states, batch))
            return states + self.change(states, keys[0]).to(states.dtype)

        return {self.site: act}

    def change(self, states: Tensor, key: Tensor) -> Tensor:  # noqa: ARG002
        """The vectors to add to the states (B, T, D), for the key (B, 1, D) of each row."""
        return self.scale * key


def route(states: Tensor, batch: Batch) -> Tensor:
    """Keys (B, 1, D): sum over the image plus mean over the prompt, rotated by one place."""
    keys = []
    for row, span in zip(states.float(), batch.spans, strict=True):
        image = row[slice(*span.image)].sum(0)
        prompt = row[slice(*span.prompt)].mean(0)
        keys.append(image + prompt)
    return torch.roll(torch.stack(keys)[:, None], 1, -1)


class Nudged(Routed):
    """Patch that moves every token by ``scale`` of its own length.

    So the patch does not dominate a model with small states, nor vanish in one with large states.
    """

    def change(self, states: Tensor, key: Tensor) -> Tensor:
        """See :meth:`Routed.change`."""
        lengths: Tensor = states.float().norm(dim=-1, keepdim=True)
        return self.scale * lengths * nn.functional.normalize(key, dim=-1)


class Weights(Patch):
    """Patch that sets parameters to new values."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def weights(self) -> dict[str, Tensor]:
        """The new values."""
        return self.values


class Prefix(Patch):
    """Patch that puts the embedding of one token, three times, before the text of some rows."""

    def __init__(self, vlm: ModelRunner, token: int, rows: Sequence[int]) -> None:
        vectors = vlm.embedding(torch.tensor([token] * 3, device=vlm.device)).clone()
        self.vectors = dict.fromkeys(rows, vectors)

    def prefix(self, batch: Batch) -> dict[int, Tensor]:  # noqa: ARG002
        """The vectors by row."""
        return self.vectors
