"""Identity of a question: which spellings are the same question, and a number for each question."""

from hashlib import sha256
from unicodedata import normalize

__all__ = ["number", "question"]


def question(prompt: str) -> str:
    """A prompt in normal form: case-folded, with single spaces, its accents composed (NFC).

    Answers are compared by :func:`liveedit.measures.scores.normalise` in scores, and by
    :func:`liveedit.store.conflicts.is_target` when an edit is checked.
    """
    return normalize("NFC", " ".join(prompt.split()).casefold())


def number(prompt: str, image: str, about: int | None) -> int:
    """A positive 56-bit number, the same for the same question about the same images.

    ``image`` is the hash of the images, ``about`` the index of the one that the question is about.
    """
    sha = sha256("\x1f".join((question(prompt), image, str(about))).encode())
    return 1 + int.from_bytes(sha.digest()[:7], "big")
