"""Running mean and standard deviation of rows of features (Welford, 1962, in parts)."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Moments"]

LEAST = 1e-7
"""Added to a standard deviation before something is divided by it."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The statistics of the rows seen so far.

    Arguments:
        count: Their number, ().
        mean: Their mean, (width,).
        spread: Σ (z − mean)² over the rows z, (width,).
    """

    count: Tensor
    mean: Tensor
    spread: Tensor

    def joined(self, z: Tensor) -> "Moments":
        """Those of the rows so far and of N new ones, z (N, width)."""
        count = self.count + len(z)
        step = z.mean(0) - self.mean
        within = (z - z.mean(0)).square().sum(0)
        spread = self.spread + (within + step.square() * self.count * len(z) / count)
        return Moments(count, self.mean + step * len(z) / count, spread)

    def normalised(self, z: Tensor) -> Tensor:
        """``z`` minus mean, divided by standard deviation; unchanged before the second row."""
        if self.count < 2:
            return z
        deviation = (self.spread / (self.count - 1)).sqrt()
        return (z - self.mean) / (deviation + LEAST)
