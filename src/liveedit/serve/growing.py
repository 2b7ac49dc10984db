"""GrowingText: the text of an answer while its tokens arrive; what is certain of it is sent."""

from collections.abc import Callable, Sequence

__all__ = ["GrowingText"]

UNFINISHED = "\ufffd"
"""A tokenizer's sign for a character whose last bytes are still to come."""


class GrowingText:
    """The text of an answer.

    White space at its ends is left out, and so is a stop text with all that follows. Whatever may
    turn out to be one of these is held back, so that the parts sent are together the whole text.

    Arguments:
        decode: Turns token ids into text.
        stops: The stop texts.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self.decode = decode
        self.stops = stops
        self.tokens: list[int] = []
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Take a token; the text that can be sent now."""
        self.tokens.append(token)
        text = self.decode(self.tokens).lstrip()
        cut = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=-1)
        self.stopped = cut >= 0
        if self.stopped:
            return self._send(text[:cut].rstrip())
        text = text.rstrip(UNFINISHED)
        return self._send(text[: len(text) - self._held(text)].rstrip())

    def end(self) -> str:
        """The rest of the text, once no token follows."""
        return "" if self.stopped else self._send(self.decode(self.tokens).strip())

    def _held(self, text: str) -> int:
        """The length of an ending of ``text`` with which a stop text may begin."""
        found = 0
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(text)), found, -1):
                if text.endswith(stop[:length]):
                    found = length
                    break
        return found

    def _send(self, text: str) -> str:
        """The part of ``text`` that was not sent before; it is sent now."""
        if len(text) <= len(self.text):
            return ""
        new = text[len(self.text) :]
        self.text += new
        return new
