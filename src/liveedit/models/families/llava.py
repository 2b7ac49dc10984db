"""LLaVA (Liu et al., "Visual Instruction Tuning", NeurIPS 2023) and its 1.5: image tokens where the
placeholder was.
"""

from liveedit.models.vlm import VLM

__all__ = ["Llava"]


class Llava(VLM):
    """What the base class takes for granted: the placeholder and a line break, then the prompt."""

    vlkeb_mark = "<image>"
