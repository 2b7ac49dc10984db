"""Training of editors. Importing this package loads no torch; using ``train`` does.

config          settings of a training
loop            the training loop
hidden_states   the cache of hidden states on disk
checkpoints     saving and resuming
ownership       which training a folder belongs to
interrupts      Ctrl-C that waits for a safe point
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from liveedit.train.config import Progress, TrainConfig, TrainFile, check_config

if TYPE_CHECKING:
    from liveedit.train.loop import train

__all__ = ["Progress", "TrainConfig", "TrainFile", "check_config", "train"]


def __getattr__(name: str) -> Any:
    """Import the loop, and with it torch, when it is first asked for."""
    if name == "train":
        return import_module("liveedit.train.loop").train
    raise AttributeError(f"module 'liveedit.train' has no attribute '{name}'")
