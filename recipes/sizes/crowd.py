"""One edit in a crowd of experts, of which it alone acts on a query, in memory or as a store opens.

What a search costs depends on the keys. Those of a trained editor, as ``recipes/store/search.py``
makes them, leave 11,892 of a million to be compared exactly, the others are ruled out by the
sketch; a model of random weights has no trained editor. So the others' vision keys are random
directions of two lengths. With q the query's features and t the threshold that an inner product
with q has to exceed, a key acts only if it is longer than t / ‖q‖. The margin is set such that this
is 1. ``FAR`` keys are shorter: their bounds rule them out. One key in ``EACH`` is ``NEAR``, twice
as long as need be, but nearly at right angles to q: the sketch cannot tell, the exact comparison
rules it out. The edit's own key is as long, and along q; it is at ``OWN``, beside the evenly spaced
keys from which the sketch's directions are learned, or q would lie in these and nothing be left.

All experts have the factors and the text key of the one edit. They are never used: only an expert
that acts needs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.shelf import Shelf, ShelvedBank
from liveedit.editors.common.sketch import SAMPLE, SLAB, Sketch, learned_basis
from liveedit.editors.liveedit.editor import LiveEdit
from liveedit.editors.liveedit.experts import ExpertPatch
from liveedit.types import Query

__all__ = ["EACH", "NEAR", "OWN", "Crowd"]

FAR = 0.5
"""Length of a key that the sketch rules out."""
NEAR = 2.0
"""Length of a key that it leaves, and of the one that acts."""
EACH = 100
"""One key in so many is near."""
OWN = 1
"""Place of the edit in its crowd."""


class Crowd:
    """The crowd around an edit. It sets the editor's margin."""

    def __init__(self, editor: LiveEdit, edit: Query) -> None:
        own = editor.edit([edit])
        batch = editor.vlm.encode([replace(edit, target="")])
        hidden = editor.vlm.hidden(batch, editor.layer)
        asked = own.asked(hidden.hidden, hidden.spans)
        length = asked.image.norm()
        editor.config = replace(editor.config, margin=float(length - asked.sentinel))
        self.editor = editor
        self.own = own.bank.tensors()
        self.along = asked.image[0] / length
        """The direction of q, (k · d_m,)."""

    def keys(self, slab: int) -> Tensor:
        """The vision keys (SLAB, k, d_m) of a slab of experts, in the first of them the edit's."""
        device = self.along.device
        chance = torch.Generator(device).manual_seed(slab)
        directions = torch.randn(SLAB, len(self.along), generator=chance, device=device)
        keys = FAR * F.normalize(directions)
        keys[EACH - 1 :: EACH] *= NEAR / FAR
        if slab == 0:
            keys[OWN] = NEAR * self.along
        own = self.own["vision_keys"]
        return keys.to(own.dtype).view(SLAB, *own.shape[1:])

    def resident(self, experts: int) -> ExpertPatch:
        """The crowd with all tensors in memory."""
        rows = {name: own.repeat(experts, 1, 1) for name, own in self.own.items()}
        for start in range(0, experts, SLAB):
            part = rows["vision_keys"][start : start + SLAB]
            part[:] = self.keys(start // SLAB)[: len(part)]
        return ExpertPatch(self.editor, Bank(rows))

    def stored(self, experts: int) -> ExpertPatch:
        """The crowd as ``liveedit.store.rows`` opens a store: in memory are sketches, and room for
        the vision keys, which are made when a query comes near them, where a store reads them.
        """
        factors = {n: own for n, own in self.own.items() if n != "vision_keys"}

        def read_factors(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            return {name: own.repeat(len(numbers), 1, 1) for name, own in factors.items()}

        shelf = Shelf({name: own[:0] for name, own in factors.items()}, read_factors)
        room = experts + experts // 4
        own = self.own["vision_keys"]
        tensors = {"vision_keys": own.new_empty(room, *own.shape[1:])}
        bank = Bank.read_later(tensors, experts, self.read, self.sketches(experts, room))
        return ExpertPatch(self.editor, ShelvedBank(bank, torch.arange(experts), shelf))

    def sketches(self, experts: int, room: int) -> dict[str, Sketch]:
        """The sketches of vision and text keys; those of the text keys are alike, and not used."""
        sample = self.read(torch.arange(0, experts, max(1, experts // SAMPLE)))
        basis = learned_basis(sample["vision_keys"].flatten(1))
        found = {name: Sketch(basis, experts, room) for name in ("vision_keys", "text_keys")}
        for start in range(0, experts, SLAB):
            keys = self.keys(start // SLAB)[: experts - start].flatten(1)
            for sketch in found.values():
                sketch.append(sketch.reduced(keys))
        return found

    def read(self, places: Tensor) -> dict[str, Tensor]:
        """The vision keys (n, k, d_m) of experts, by their places in order."""
        slabs = places // SLAB
        parts = []
        for slab in sorted(set(slabs.tolist())):
            parts.append(self.keys(slab)[places[slabs == slab] % SLAB])
        return {"vision_keys": torch.cat(parts)}
