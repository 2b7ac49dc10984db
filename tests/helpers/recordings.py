"""Numbers recorded from the authors' code: ``tests/assets/parity/README.md`` describes them."""

import json
from pathlib import Path

import torch
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

    def check_changes(self, patch, number):
        """Compare the changes of weights with those after so many edits."""
        changes = patch.changes()
        recorded = self.starting_with(f"change_{number}.")
        assert recorded
        for name, value in recorded.items():
            atol = 1e-5 * float(value.abs().max())
            torch.testing.assert_close(changes[name], value, rtol=1e-4, atol=atol)

    def check_logits(self, patch, number):
        """Compare every query's logits, unedited and under a patch, with those after the edits."""
        for index, query in enumerate(self.queries(self.facts["queries"])):
            batch = self.vlm.encode([query])
            base = self.tensors.get(f"q{index}.base_logits")
            if base is not None:
                torch.testing.assert_close(self.vlm.logits(batch), base, rtol=0, atol=1e-5)
            with self.vlm.patched(patch):
                logits = self.vlm.logits(batch)
            expected = self.tensors[f"q{index}.edited_logits_{number}"]
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
