"""Copy a trained editor into the package, its weights in half precision.

    python recipes/emblem/ship.py runs/lte        # to src/liveedit/assets/lte, by the editor's name

Its patches are then those of the rounded weights. The shipped editors were trained with

    OMP_NUM_THREADS=1 liveedit train runs/NAME --editor NAME --config recipes/emblem/NAME.json

which gives the same weights bit for bit. docs/explanation/lab-log.md has the times and the scores.
"""

import argparse
from pathlib import Path

import torch

from liveedit.editable import load_vlm
from liveedit.editors import load_editor
from liveedit.editors.base import TrainableEditor

ASSETS = Path("src/liveedit/assets")


def main() -> None:
    """Save the editor to the package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder that `liveedit train` wrote")
    editor = load_editor(load_vlm(), parser.parse_args().folder)
    assert isinstance(editor, TrainableEditor), f"{editor.name} is not trained"
    target = ASSETS / editor.name
    editor.save_pretrained(target, torch.float16)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
