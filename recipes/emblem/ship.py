"""Put a trained editor into the package, in half precision: its patches then are those of the
rounded weights.

    python recipes/emblem/ship.py runs/lte            # to src/liveedit/assets/lte, after the editor's name

The shipped editors were trained by

    OMP_NUM_THREADS=1 liveedit train runs/NAME --editor NAME --config recipes/emblem/NAME.json

which gives the same weights again, bit for bit; docs/explanation/lab-log.md says how long each took and what it
reached.
"""

import argparse
from pathlib import Path

import torch

from liveedit.editable import load_vlm
from liveedit.editors import load_editor
from liveedit.editors.base import TrainableEditor

ASSETS = Path("src/liveedit/assets")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `liveedit train` left")
    editor = load_editor(load_vlm(), parser.parse_args().folder)
    assert isinstance(editor, TrainableEditor), f"{editor.name} has nothing that is trained"
    target = ASSETS / editor.name
    editor.save_pretrained(target, torch.float16)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
