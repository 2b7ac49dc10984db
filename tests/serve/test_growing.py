"""The text of an answer while it grows: its parts are together the whole."""

from hypothesis import given
from hypothesis import strategies as some

from liveedit.serve.growing import GrowingText

LETTERS = "ab \né"


def grown(text, stops):
    """The text of an answer whose tokens are the bytes of ``text``, and its parts."""
    growing = GrowingText(lambda tokens: bytes(tokens).decode(errors="replace"), stops)
    parts = []
    for byte in text.encode():
        parts.append(growing.add(byte))
        if growing.stopped:
            break
    parts.append(growing.end())
    return growing, parts


@given(some.text(LETTERS), some.lists(some.text(LETTERS, min_size=1, max_size=3), max_size=3))
def test_the_parts_are_the_text_up_to_the_first_stop(text, stops):
    growing, parts = grown(text, stops)
    whole = text.lstrip()
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    read = whole[: min(ends, default=len(whole))]  # up to the first stop that is complete
    cut = min((read.find(stop) for stop in stops if stop in read), default=len(read))
    assert "".join(parts) == growing.text == read[:cut].strip()


@given(some.text(LETTERS))
def test_without_stops_nothing_is_lost(text):
    growing, parts = grown(text, ())
    assert "".join(parts) == growing.text == text.strip()


def test_text_goes_out_as_soon_as_it_is_certain():
    _, parts = grown("one é sto two", ("stop",))
    assert parts[:3] == ["o", "n", "e"]
    assert "\ufffd" not in "".join(parts)
    assert "".join(parts) == "one é sto two"
