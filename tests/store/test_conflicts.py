"""Which answers are the target, and which edits compete; test_precedence tests the conflicts."""

import pytest

from liveedit.store.conflicts import competitors, is_target
from liveedit.store.edit import Edit


@pytest.mark.parametrize(
    "answer",
    [
        "Brazil",
        "brazil",
        " Brazil\n",
        "Brazil.",
        "Brazil!",
        'Brazil"',
        "Brazil. It is a country.",
        "Brazil。",
    ],
)
def test_an_answer_that_is_the_target(answer):
    assert is_target(answer, "Brazil")


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("Brazil Japan Japan", "Brazil"),
        ("Guinea Guinea Guinea", "Guinea"),
        ("Guinea-Bissau", "Guinea"),
        ("Guinea Bissau", "Guinea"),
        ("New Zealand", "New"),
        ("Newapan", "New"),
        ("San Japan", "Japan"),
        ("a Brazil", "Brazil"),
        ("3.5", "3"),
        ("Bra", "Brazil"),
        ("? ? ? ? ? ?", "?"),
        ("........", "..."),
        ("Brazil. . . . .", "Brazil"),
        ("", "Brazil"),
    ],
)
def test_an_answer_that_is_not_the_target(answer, target):
    assert not is_target(answer, target)


@pytest.mark.parametrize("target", ["3.5", "a b", "C++", "\u00c5"])
def test_targets_of_any_kind(target):
    assert is_target(target, target)
    assert is_target(f"{target}.", target)
    assert not is_target(f"{target} {target}", target)


def test_marks_may_be_composed_or_not():
    assert is_target("Sa\u0303o Tome\u0301", "S\u00e3o Tom\u00e9")


def edit(prompt, target, image):
    return Edit(f"{prompt}{target}{image}", prompt, target, image, "")


def test_competitors_give_another_answer_about_another_image():
    edits = [
        edit("What?", "Brazil", "one"),
        edit("What?", "Brazil", "two"),
        edit("what? ", "Peru", "one"),
        edit("Which?", "Peru", "two"),
        edit("What?", "Peru", ""),
        edit("What?", "peru", "three"),
        edit("What?", "Chile", "one"),
        edit("What?", "Chile", ""),
    ]
    assert competitors(edits, 0) == [set(), set(), {1}, set(), set(), {0, 1}, {1, 5}, set()]
    assert competitors(edits, 5) == competitors(edits, 0)[5:]
