"""Which answers are those that an edit asks for, and which edits are rivals; test_precedence has
what acts on what.
"""

import pytest

from liveedit.store.conflicts import rivals, said
from liveedit.store.listing import Edit


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
def test_the_target_is_said(answer):
    assert said(answer, "Brazil")


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
def test_something_else_is_said(answer, target):
    assert not said(answer, target)


@pytest.mark.parametrize("target", ["3.5", "a b", "C++", "\u00c5"])
def test_targets_of_any_kind(target):
    assert said(target, target)
    assert said(f"{target}.", target)
    assert not said(f"{target} {target}", target)


def test_marks_may_be_composed_or_not():
    assert said("Sa\u0303o Tome\u0301", "S\u00e3o Tom\u00e9")


def edit(prompt, target, image):
    return Edit(f"{prompt}{target}{image}", prompt, target, image, "")


def test_rivals_give_a_question_about_another_image_another_answer():
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
    assert rivals(edits, 0) == [set(), set(), {1}, set(), set(), {0, 1}, {1, 5}, set()]
    assert rivals(edits, 5) == rivals(edits, 0)[5:]
