"""Questions close to an edit: another one about its image, and its own about another image."""

import pytest

from liveedit.data.published.annotations import FIELDS, Annotation
from liveedit.data.published.neighbours import Asked, Neighbours
from liveedit.data.published.sources import source

VLKEB = source("vlkeb")


def row(number, **fields):
    texts = {name: f"{number} {name}" for name in FIELDS}
    images = {name: f"{name}-{number}/a.jpg" for name in ("image", "image_rephrase", "m_loc")}
    return Annotation(f"eval:{number}", **(texts | images | fields))


def same_image(own, train=(), edited=()):
    return Neighbours(VLKEB, train, edited).same_image(own)


def look_alike(own, train=(), edited=()):
    return Neighbours(VLKEB, train, edited).look_alike(own)


OWN = row(0, image="m.1/a.jpg", src="Who is it?", alt="Ann")


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"src": "Where is it?", "alt": "Rome"}, True),
        ({"src": "Who is it?", "alt": "Bob"}, False),
        ({"src": " who is it?. ", "alt": "Bob"}, False),
        ({"src": "What is the name?", "alt": "Ann"}, False),
        ({"src": "What is the name?", "alt": "ann."}, False),
    ],
)
def test_the_other_question_about_an_image_has_another_answer_too(other, found):
    train = [row(1, image="m.2/a.jpg", src="Where?", alt="here"), row(2, image=OWN.image, **other)]
    wanted = Asked(OWN.image, other["src"], other["alt"]) if found else None
    assert same_image(OWN, train) == wanted


def test_what_another_edit_of_the_image_asks_or_answers_is_no_other_question():
    asked = [
        row(1, image=OWN.image, src="Where is it?", alt="Rome"),
        row(2, image=OWN.image, src="Which?", alt="Oslo"),
    ]
    edits = [
        OWN,
        row(3, image=OWN.image, src="where is it?", alt="Paris"),
        row(4, image=OWN.image, alt="oslo"),
    ]
    assert same_image(OWN, asked) == Asked(OWN.image, "Where is it?", "Rome")
    assert same_image(OWN, asked, edits) is None


def test_locality_probes_of_the_test_itself_are_asked_for():
    other = row(1, m_loc=OWN.image, m_loc_q="Where?", m_loc_a="Rome")
    assert same_image(OWN, [], [OWN, other]) == Asked(OWN.image, "Where?", "Rome")
    alike = row(1, m_loc="m.3/a.jpg", m_loc_q="Who is it.", m_loc_a="Cid")
    assert look_alike(row(0, src="who is it"), [], [OWN, alike]) == Asked(
        "m.3/a.jpg", "Who is it.", "Cid"
    )


def test_the_look_alike_is_another_subject_of_which_nothing_is_edited():
    same, edited, free = (
        row(n, m_loc=f"m.{n}/b.jpg", m_loc_q="Who is it?", m_loc_a=str(n)) for n in (1, 2, 3)
    )  # the first is of the subject of OWN
    assert look_alike(OWN, [same]) is None
    assert look_alike(OWN, [same, free]) == Asked("m.3/b.jpg", "Who is it?", "3")
    test = [OWN, row(5, image="m.2/c.jpg"), edited, same]
    assert look_alike(OWN, [free], test) is None, "the training asks about it, the test does not"
    assert look_alike(OWN, [free], [*test, row(6, m_loc="m.3/c.jpg")]) == Asked(
        "m.3/b.jpg", "Who is it?", "3"
    )


def test_records_that_ask_alike_take_turns():
    train = [row(n, m_loc=f"m.{n}/b.jpg", m_loc_q="Who is it?", m_loc_a=str(n)) for n in (7, 8, 9)]
    found = [look_alike(row(n, src="Who is it?", image=OWN.image), train).answer for n in range(4)]
    assert found == ["7", "8", "9", "7"]
