"""LLaVA and LLaVA-1.5 (Liu et al., "Visual Instruction Tuning", NeurIPS 2023).

The text decoder is given the prompt with the image in place of its placeholder: one token for each
patch of CLIP's vision tower, projected by an MLP. The base class assumes exactly this, so nothing
is overridden.
"""

from liveedit.models.vlm import VLM

__all__ = ["Llava"]


class Llava(VLM):
    """LLaVA: the placeholder, a line break and the prompt; VLKEB's prompt has no line break."""

    vlkeb_mark = "<image>"
