"""Methods of the published tables, with their settings from the files in ``settings/``.

A file is called LABEL.json after the label in the tables, or LABEL.BACKBONE.json where backbones
differ. It holds the ``method`` if that is not the label, the settings of the ``editor`` and, for a
trained method, those of the ``training``; ``epochs`` may replace the number of steps. BENCHMARK
stands for the name of the benchmark.
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
"""All methods: trained ones first, of these the most expensive last."""
VLKEB_ONLY = ("ft-llm", "ft-vis")
"""FT-L and FT-M with VLKEB's settings, for VLKEB's protocols only."""


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Arguments:
        label: Label in the tables.
        name: Name of the editor.
        file: File of the settings.
        editor: Settings of the editor.
        training: Settings of the training; empty if there is none.
        steps: Number of training steps; 0 if there is no training.
    """

    label: str
    name: str
    file: Path
    editor: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    @property
    def batch(self) -> int:
        """Number of cases per training step; 0 if there is no training."""
        return int(self.training.get("batch_size", 0))


def method(label: str, backbone: str, data: str, train_cases: int) -> Method:
    """The method of a label, for a backbone and a benchmark with ``train_cases``."""
    own = SETTINGS / f"{label}.{backbone}.json"
    file = own if own.exists() else SETTINGS / f"{label}.json"
    stored = json.loads(file.read_text(encoding="utf-8").replace("BENCHMARK", data))
    training = stored.get("training", {})
    steps = training.get("steps", 0)
    if "epochs" in stored:
        steps = stored["epochs"] * ceil(train_cases / training["batch_size"])
    return Method(label, stored.get("method", label), file, stored["editor"], training, steps)
