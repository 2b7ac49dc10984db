"""Of items in a row the next is made while one is used; so are edits."""

from threading import Event, get_ident

import pytest
import torch

from liveedit import Query
from liveedit.data.emblem import Emblem
from liveedit.editors.common.ahead import ahead
from liveedit.editors.liveedit import experts
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.errors import BadInput
from liveedit.models.tiny import tiny

CODES = ("jp", "no", "br", "fr", "ke", "it", "pe", "in", "de", "se", "ca")


def test_the_next_is_made_while_one_is_used():
    begun = [Event() for _ in range(4)]

    def make(number):
        begun[number].set()
        return number, get_ident()

    for number, thread in ahead(make, range(4)):
        assert thread != get_ident()
        assert number == 3 or begun[number + 1].wait(timeout=30)
        assert number > 1 or not begun[number + 2].is_set()


@pytest.mark.parametrize("numbers", [[], [1], [3, 1, 2]])
def test_all_come_in_their_order(numbers):
    assert list(ahead(str, numbers)) == [str(number) for number in numbers]


def test_what_fails_fails_in_its_place():
    found = ahead(lambda number: 6 // number, [2, 3, 0, 1])
    assert [next(found), next(found)] == [3, 2]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_edits_of_several_sub_batches_are_those_made_one_by_one(monkeypatch):
    monkeypatch.setattr(experts, "ON_CPU", 4)
    editor = LiveEdit(tiny("llava"), LiveEditConfig(module_dim=16, layer=1))
    flags = [Emblem().drawing("twemoji", f"flag-{code}") for code in CODES]
    edits = [Query("Which flag?", str(place), flag) for place, flag in enumerate(flags)]
    made = editor.edit(edits).bank.tensors()
    alone = [editor.edit([edit]).bank.tensors() for edit in edits]
    for name, rows in made.items():
        expected = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(rows, expected, atol=1e-3, rtol=1e-3)


def test_an_image_that_cannot_be_read_stops_edits_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "ON_CPU", 4)
    editor = LiveEdit(tiny("llava"), LiveEditConfig(module_dim=16, layer=1))
    flag = Emblem().drawing("twemoji", "flag-jp")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    edits = [Query("Which flag?", "x", flag)] * 4 + [Query("And this?", "x", broken)]
    with pytest.raises(BadInput, match=r"broken\.png"):
        editor.edit(edits)
