"""Settings of a server: its name, limits and rights."""

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Literal

from liveedit.errors import BadInput

__all__ = ["Limits", "Right", "Rights", "check_host", "is_loopback"]

TOKEN = re.compile("[!-~]+")
Right = Literal["ask", "edit"]
"""The right that a token gives: asking questions, or editing as well."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a server accepts.

    Arguments:
        body: Bytes of a request.
        pixels: Pixels of an image.
        images: Images of a request.
        prompt: Tokens of a question, its images and the template included.
        queue: Requests that wait; further ones are turned away.
        batch: Requests that are answered at once.
        tokens: Tokens of an answer.
        questions: Recent questions that are remembered, to try edits on them.
        grace: Seconds that running answers get to end when the server stops.
        arrival: Seconds in which a request has to arrive; a large one gets more while it comes.
    """

    body: int = 32 << 20
    pixels: int = 32_000_000
    images: int = 16
    prompt: int = 16_384
    queue: int = 256
    batch: int = 16
    tokens: int = 512
    questions: int = 64
    grace: int = 60
    arrival: float = 60


@dataclass(frozen=True, slots=True)
class Rights:
    """The tokens that a server knows, as hashes. Without any, everyone may do everything."""

    ask: tuple[bytes, ...] = field(default=(), repr=False)
    edit: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, ask: Iterable[str], edit: Iterable[str]) -> "Rights":
        """The rights of tokens. Raises :class:`BadInput` for one that no request can bring."""
        ask, edit = list(ask), list(edit)
        for token in (*ask, *edit):
            check_token(token)
        return cls(tuple(map(hashed, ask)), tuple(map(hashed, edit)))

    @classmethod
    def of_environment(cls) -> "Rights":
        """The rights of the tokens in LIVEEDIT_ASK_TOKENS and LIVEEDIT_EDIT_TOKENS, separated by
        commas.
        """
        given = [os.environ.get(f"LIVEEDIT_{kind}_TOKENS", "") for kind in ("ASK", "EDIT")]
        return cls.of(*(filter(None, map(str.strip, tokens.split(","))) for tokens in given))

    @property
    def open(self) -> bool:
        """Whether there are no tokens."""
        return not (self.ask or self.edit)

    def of_token(self, token: str) -> Right | None:
        """The right that a token gives; the time that this takes does not tell how near it is."""
        given = hashed(token)
        may_edit = [compare_digest(given, known) for known in self.edit]
        may_ask = [compare_digest(given, known) for known in self.ask]
        if any(may_edit):
            return "edit"
        return "ask" if any(may_ask) else None


def check_token(token: str) -> None:
    """Raise :class:`BadInput` for a token that a header cannot hold; it is not shown."""
    if not TOKEN.fullmatch(token):
        raise BadInput(
            "a token in LIVEEDIT_ASK_TOKENS or LIVEEDIT_EDIT_TOKENS cannot be sent in a header: "
            "make it of ASCII letters, digits and signs, without spaces"
        )


def hashed(token: str) -> bytes:
    """The hash of a token."""
    return sha256(token.encode(errors="surrogatepass")).digest()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(host: str, rights: Rights, *, without_tokens: bool) -> None:
    """Raise :class:`BadInput` for a host that others reach, unless they need a token."""
    if rights.open and not is_loopback(host) and not without_tokens:
        raise BadInput(
            f"anyone who reaches {host} could edit the model: set LIVEEDIT_EDIT_TOKENS and "
            "LIVEEDIT_ASK_TOKENS, or give --without-tokens"
        )
