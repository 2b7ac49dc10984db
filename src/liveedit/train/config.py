"""Settings of a training, and the type of the function that it reports its progress to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from reprlib import repr as shown
from typing import Annotated, Any, Literal

from annotated_types import Interval

from liveedit.errors import BadInput
from liveedit.settings import Count, Index, Positive, Seed, check

__all__ = ["Progress", "TrainConfig", "TrainFile", "check_config", "fitted"]

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with the stage ("hidden states" or "training"), the amount of it that is done, its total
amount, and the losses by name.
"""

NARROW = 1024
"""Width of states below which a model is a small one."""
LEAST_STEPS = 500
STEPS_A_CASE = 20

Draws = Annotated[int, Interval(ge=1, le=100)]
"""A number of seeds. All cases are in memory: some 150 MB for each seed of emblem."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimiser, the batches and the checkpoints; the schedule is the released one.

    Arguments:
        steps: Number of optimiser steps.
        batch_size: Cases in a batch, over all processes together.
        lr: Learning rate of Adam.
        schedule: How the learning rate falls: ``step``, to a tenth after ``cut`` steps; ``cosine``,
            to zero at the last step.
        cut: Steps after which the schedule ``step`` lowers the learning rate.
        warmup: Steps in which the learning rate rises linearly from zero, at most ``steps``.
        clip: Largest norm of the gradient; ``None``: no clipping.
        seed: Seed of the networks, of the order of the cases and of all random draws.
        checkpoint_every: Steps between two checkpoints.
        cache: Whether the hidden states of all cases are computed once and kept in memory and on
            disk; otherwise each step computes those of its batch.
    """

    steps: Count = 20_000
    batch_size: Count = 8
    lr: Positive = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    cut: Index = 10_000
    warmup: Index = 0
    clip: Positive | None = None
    seed: Seed = 0
    checkpoint_every: Count = 500
    cache: bool = True


@dataclass(frozen=True)
class TrainFile:
    """The JSON file of ``liveedit train --config``.

    Arguments:
        editor: Settings of the editor by name.
        training: Settings of the training by name.
        cases: Number of seeds with which training cases are drawn.
    """

    editor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    cases: Draws = 1


def fitted(width: int, count: int) -> dict[str, Any]:
    """Settings that suit a model whose states are ``width`` wide, and ``count`` cases.

    The published ones are for models of 7 billion parameters and thousands of cases. Fewer cases
    take fewer steps; narrow models larger batches and steps.
    """
    narrow = width < NARROW
    steps = min(TrainConfig.steps, max(LEAST_STEPS, STEPS_A_CASE * count))
    batch_size = min(32 if narrow else TrainConfig.batch_size, count)
    chosen = {"steps": steps, "batch_size": batch_size}
    return chosen | {"lr": 5e-4, "clip": 1.0} if narrow else chosen


def check_config(config: TrainConfig, where: str) -> None:
    """Raise :class:`BadInput` for settings out of range, or that contradict each other.

    ``where`` is the prefix of names in messages.
    """
    check(config, where)
    if config.warmup > config.steps:
        raise BadInput(
            f"{where}warmup is {shown(config.warmup)}: "
            f"it should be at most steps, which is {config.steps}"
        )
