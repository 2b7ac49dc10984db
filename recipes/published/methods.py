"""The methods of the published tables and their settings, as the files in ``settings/`` say.

A file is called after the label that the tables have, LABEL.json, or LABEL.BACKBONE.json where
backbones differ. It holds the ``method`` where the label is none, the ``editor``'s settings and,
for a method that is trained, the ``training``'s; ``epochs`` stands for a number of steps. BENCHMARK
in it is the benchmark's name.
"""

import json
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

__all__ = ["LABELS", "VLKEB_ONLY", "Method", "method"]

SETTINGS = Path(__file__).parent / "settings"

LABELS = (
    "liveedit", "mend", "serac", "recipe", "ke", "lte",
    "ft-l", "ft-m", "ft-llm", "ft-vis", "ike", "t-patcher", "lemoe", "grace", "wise", "lora",
)  # fmt: skip
"""All methods, those that are trained first, the most expensive training last."""
VLKEB_ONLY = ("ft-llm", "ft-vis")
"""FT-L and FT-M with VLKEB's settings, for its protocols alone."""


@dataclass(frozen=True)
class Method:
    """A method with its settings. ``steps`` and ``batch`` are 0 where nothing is trained; ``file``
    holds it all.
    """

    label: str
    name: str
    file: Path
    editor: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    @property
    def batch(self) -> int:
        """Cases a training step takes."""
        return int(self.training.get("batch_size", 0))


def method(label: str, backbone: str, data: str, train_cases: int) -> Method:
    """The method of a label for a backbone and a benchmark with so many training cases."""
    own = SETTINGS / f"{label}.{backbone}.json"
    file = own if own.exists() else SETTINGS / f"{label}.json"
    stored = json.loads(file.read_text(encoding="utf-8").replace("BENCHMARK", data))
    training = stored.get("training", {})
    steps = training.get("steps", 0)
    if "epochs" in stored:
        steps = stored["epochs"] * ceil(train_cases / training["batch_size"])
    return Method(label, stored.get("method", label), file, stored["editor"], training, steps)
