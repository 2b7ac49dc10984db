"""Finds padding and answer in raw Hugging Face calls, which contain only tokens."""

from typing import Any

from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import IGNORED

__all__ = ["answer_lengths", "unpadded"]


def unpadded(mask: Any, input_ids: Tensor) -> Tensor:
    """Which of the tokens (B, T) are not padding, as a mask (B, T).

    ``mask`` is a decoder's attention mask: (B, T), pairs of tokens (B, 1, T, T), or a dictionary of
    masks by the kind of layer. In a mask of pairs, a token is padding if it does not attend to
    itself. Without a mask nothing is padding. Raises :class:`BadInput` for several rows with a mask
    of another form, such as that of flex attention.
    """
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if isinstance(one, Tensor)), None)
    if isinstance(mask, Tensor) and mask.ndim == 4:
        seen = mask.diagonal(dim1=-2, dim2=-1)[:, 0]
        boolean = seen.dtype == seen.bool().dtype
        mask = (seen if boolean else seen == 0).to(input_ids.dtype)
    if isinstance(mask, Tensor) and mask.shape == input_ids.shape:
        return mask
    if mask is not None and len(input_ids) > 1:
        raise BadInput(
            "this attention mask does not tell which tokens are padding: "
            "give one row at a time, or use another attention implementation"
        )
    return input_ids.new_ones(input_ids.shape)


def answer_lengths(labels: Tensor, image: Tensor, real: Tensor) -> list[int]:
    """The number of answer tokens at the end of each row, by the ``labels`` (B, T) of a raw call.

    The answer begins at the row's first label that is not ignored; ``real`` (B, T) marks the tokens
    that are not padding. The length is 0 if no prompt would be left, because the labels begin with
    the text or before the row's ``image`` (B, T) ends.
    """
    begun = (real & (labels != IGNORED)).cumsum(1) > 0
    before_image_ends = image.flip(1).cumsum(1).flip(1) > 0
    has_prompt = (real & ~begun & ~before_image_ends).any(1)
    lengths: list[int] = ((real & begun).sum(1) * has_prompt).tolist()
    return lengths
