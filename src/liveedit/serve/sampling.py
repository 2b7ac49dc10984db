"""Sampling: how a request wants its tokens chosen."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Sampling"]

COLDEST = 1e-6
"""Least temperature to divide by: float32 takes a smaller one for 0."""


@dataclass
class Sampling:
    """One request's choice of tokens: the likeliest at temperature 0, else drawn.

    ``seed`` makes the draws repeatable; ``top_p`` is the share of probability to draw from.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    draws: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.draws = torch.Generator()
        if self.seed is None:
            self.draws.seed()
        else:
            self.draws.manual_seed(self.seed % 2**63)

    def draw(self, scores: Tensor) -> int:
        """Draw the next token by the logits (V,); the temperature is not 0."""
        scaled = scores.float().cpu()
        chances = ((scaled - scaled.max()) / max(self.temperature, COLDEST)).softmax(-1)
        likeliest, tokens = chances.sort(descending=True)
        beyond = likeliest.cumsum(-1) - likeliest >= self.top_p
        beyond[0] = False  # the likeliest may always be drawn
        likeliest = likeliest.masked_fill(beyond, 0)
        return int(tokens[torch.multinomial(likeliest, 1, generator=self.draws)])
