"""Numbers recorded from the authors' code: ``tests/assets/parity/README.md`` describes them."""

import json
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from liveedit.models.vlm import VLM
from liveedit.types import Query

PARITY = Path(__file__).parents[1] / "assets" / "parity"


class Recording:
    """The recording of one method: its settings, queries and tensors."""

    def __init__(self, method):
        folder = PARITY / method
        self.facts = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        self.tensors = load_file(folder / "golden.safetensors")
        self.images = [Image.fromarray(pixels.numpy()) for pixels in self.tensors["images"]]
        self.config = self.facts["config"]
        self.vlm = VLM.load(PARITY / "tiny-llava", prompt_format="raw")

    def queries(self, entries):
        """The queries of a list of [number of the image or null, prompt, target]."""
        return [self.query(*entry) for entry in entries]

    def query(self, number, prompt, target):
        """A query about a recorded image."""
        return Query(prompt, target, None if number is None else self.images[number])

    def starting_with(self, prefix):
        """The tensors whose names start with ``prefix``, by the rest of the name."""
        found = {}
        for name, value in self.tensors.items():
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = value
        return found
