"""Make the baselines' released forms, one editor's folder each; the table shows the repaired forms.

    python recipes/emblem/released.py runs/released [--only NAME …]
    liveedit eval --editors serac-text=runs/released/serac-text,… --out runs/table/seed-0

Forms whose networks differ are trained, by the recipe of the default form, in 10 to 20 minutes
each on one core, an hour for liveedit; the others are settings of the shipped editor. A stopped run
continues where it was. Prints the value for ``--editors``.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import EDITORS, new_editor
from liveedit.editors.base import TrainableEditor
from liveedit.registry import resolve
from liveedit.train import TrainConfig, train

HERE = Path(__file__).parent

TEXT_SCOPE = {"scope": "text", "locality": ("text_locality", "image_locality")}
"""Negatives as published: text cannot distinguish look-alikes and would learn to answer nothing."""

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "ike-text": ("ike", {"by": "text"}),
    "lte-text": ("lte", {"by": "text"}),
    "lemoe-unrouted": ("lemoe", {"routing": 0.0}),
    "liveedit-endless": ("liveedit", {"eos": False}),
    "mend-mean": ("mend", {"combine": "mean"}),
    "serac-text": ("serac", TEXT_SCOPE),
    "recipe-text": ("recipe", TEXT_SCOPE),
}
"""By label the method, and the settings that give its released form."""


def retrained(name: str, settings: dict[str, Any]) -> bool:
    """Whether these settings need networks of their own."""
    method = resolve("editor", name, EDITORS)
    return issubclass(method, TrainableEditor) and not settings.keys() <= method.inference_settings


def configured(name: str, settings: dict[str, Any], folder: Path) -> None:
    """Leave the shipped editor with these settings in ``folder``."""
    shutil.copytree(embedded(name), folder, dirs_exist_ok=True)
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["config"] |= settings
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def trained(name: str, settings: dict[str, Any], folder: Path) -> None:
    """Train the method with these settings, by its recipe, into ``folder``."""
    recipe = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    editor = new_editor(load_vlm(), name, recipe["editor"] | settings)
    assert isinstance(editor, TrainableEditor)
    draws = (load_cases("emblem", "train", seed) for seed in range(recipe["cases"]))
    cases = list(chain.from_iterable(draws))
    with Progress() as bar:
        task = bar.add_task(folder.name)

        def shown(stage: str, done: int, total: int, _: Mapping[str, float]) -> None:
            bar.update(task, completed=done, total=total, description=stage)

        train(editor, cases, TrainConfig(**recipe["training"]), folder, shown)


def main() -> None:
    """Make the requested forms that do not exist yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=FORMS, default=list(FORMS))
    args = parser.parse_args()
    for label in args.only:
        name, settings = FORMS[label]
        folder = args.out / label
        if (folder / "config.json").exists():
            continue
        if retrained(name, settings):
            trained(name, settings, folder)
        else:
            configured(name, settings, folder)
    Console().print(",".join(f"{label}={args.out / label}" for label in args.only), soft_wrap=True)


if __name__ == "__main__":
    main()
