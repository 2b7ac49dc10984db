"""Writes a checkpoint that has the weights of a patch in place of the model's own."""

from pathlib import Path

from liveedit.artifacts import new_folder
from liveedit.errors import BadInput
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM

__all__ = ["save_merged"]

OTHERWISE = ("rewrite", "prefix", "bind", "merge")
"""The methods of a patch that act on a call, which a checkpoint cannot hold."""


def save_merged(vlm: VLM, patch: Patch, folder: str | Path) -> None:
    """Write model and processor to a new folder, which transformers alone loads.

    Raises :class:`BadInput` for a patch that acts by more than weights, for a quantised model, and
    for an existing folder; :class:`StorageError` if it cannot be written.
    """
    if any(getattr(type(patch), name) is not getattr(Patch, name) for name in OTHERWISE):
        raise BadInput(
            "these edits act beside the weights, so no checkpoint can hold them: serve them with "
            "`liveedit serve`, or make them with a method that changes weights, such as ft-l"
        )
    if getattr(vlm.model, "hf_quantizer", None) is not None:
        raise BadInput(
            "the weights of a quantised model cannot be replaced: load it without --quantize"
        )
    state = vlm.model.state_dict()
    for name, weight in patch.weights().items():
        state[name] = weight.detach().to(state[name])
    with new_folder(folder) as part:
        vlm.model.save_pretrained(part, state_dict=state)
        vlm.processor.save_pretrained(part)
