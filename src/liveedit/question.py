"""The identity of a question: which wordings are one, and a number for a question about its images."""

from hashlib import sha256
from unicodedata import normalize

__all__ = ["number", "question"]


def question(prompt: str) -> str:
    """A question without what does not make it another: case, white space of any length, and how
    marks are composed.
    """
    return normalize("NFC", " ".join(prompt.split()).casefold())


def number(prompt: str, image: str, about: int | None) -> int:
    """A number above 0 for a question about images of the hash ``image``, the same for the same
    question.
    """
    sha = sha256("\x1f".join((question(prompt), image, str(about))).encode())
    return 1 + int.from_bytes(sha.digest()[:7], "big")
