"""Queries, cases and records: what they hold, and what is refused in one line."""

import io
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image

from liveedit.errors import BadInput
from liveedit.types import Case, Firing, Probe, Query, Record, Turn, checked


def test_images_and_the_one_asked_about():
    assert Query("?").images == Query("?").asked == ()
    assert Query("?", image="a.png").images == Query("?", image="a.png").asked == ("a.png",)
    several = Query("?", image=["a.png", "b.png", "c.png"])
    assert several.images == ("a.png", "b.png", "c.png")
    assert several.asked == ("c.png",)
    assert Query("?", image=several.image, about=0).asked == ("a.png",)
    assert Query("?", image=several.image, about=None).asked == several.images


def test_a_list_of_one_image_is_that_image_and_an_empty_one_is_none():
    assert Query("?", image=["a.png"]).image == "a.png"
    assert Query("?", image=[]).image is None


@pytest.mark.parametrize("about", [2, -3])
def test_a_place_without_an_image_is_refused(about):
    with pytest.raises(BadInput, match=f"no image {about} among 2"):
        Query("?", image=["a.png", "b.png"], about=about)


def test_a_place_of_another_type_is_refused():
    with pytest.raises(BadInput, match="`about` is the index of an image, not str: count from 0"):
        Query("?", image="a.png", about="first")
    place = Query("?", image=["a.png", "b.png"], about=np.int64(0))
    assert (place.asked, type(place.about)) == (("a.png",), int)


def test_all_queries_of_a_case():
    edit, asked = Query("a", "b"), Query("c")
    assert Case(
        "1", (edit,), (Probe("reliability", edit), Probe("text_locality", asked))
    ).queries == (
        edit,
        edit,
        asked,
    )


def test_one_query_or_several_are_a_list():
    one, other = (
        Query("?", "a", Path("a.png")),
        Query("?", image=["a.png", Image.new("RGB", (1, 1))]),
    )
    assert checked(one) == [one]
    assert checked(iter([one, other])) == checked((one, other)) == [one, other]
    assert checked([]) == []


ODD = {
    "a text": (
        "How many?",
        r"a question is a Query, not str: write Query\(prompt, target, image\)",
    ),
    "texts": (["How many?"], "a question is a Query, not str"),
    "nothing": (None, "a question is a Query, not None"),
    "a number": (5, "a question is a Query, not int"),
    "a list of lists": ([[Query("?")]], "a question is a Query, not list"),
    "no prompt": (Query(None), "the prompt of a query is text, not None"),
    "a prompt of bytes": (Query(b"?"), "the prompt of a query is text, not bytes"),
    "a number as target": (
        Query("?", 7),
        "the target of a query is text, not int: put it in quotes",
    ),
    "no target": (Query("?", None), "the target of a query is text, not None"),
    "several targets": (Query("?", ["7", "seven"]), "the target of a query is text, not list"),
    "a fact that is none": (Query("?", "7", None, 3), "the fact of a query is text, not int"),
    "one wording": (
        Query("?", "7", wordings="What?"),
        "the wordings of a query are texts in a list, not str",
    ),
    "a wording that is none": (Query("?", wordings=[3]), "the wording of a query is text, not int"),
    "half a character": (
        Query("\ud83d"),
        "the prompt of a query holds characters that are not Unicode",
    ),
    "an array": (
        Query("?", "7", np.zeros((2, 2, 3), np.uint8)),
        "an image is a PIL image or a path, not ndarray",
    ),
    "bytes": (Query("?", "7", b"PNG"), "not bytes: open files and bytes with PIL.Image.open"),
    "a buffer": (Query("?", "7", bytearray(b"PNG")), "not bytearray"),
    "a file": (Query("?", "7", io.BytesIO(b"PNG")), "not BytesIO"),
    "one of several": (Query("?", "7", ["a.png", 5]), "not int"),
    "images in a set": (Query("?", "7", {"a.png"}), "not set"),
    "a path of bytes": (Query("?", "7", [b"a.png", "b.png"]), "not bytes"),
}


@pytest.mark.parametrize("kind", ODD)
def test_values_of_other_types_are_one_line(kind):
    given, said = ODD[kind]
    with pytest.raises(BadInput, match=said) as caught:
        checked(given)
    assert str(caught.value).isprintable()


def test_a_record_is_read_as_it_was_written():
    places = {
        "case": "c",
        "probe": 3,
        "edits": 10,
        "window": 2,
        "seed": 7,
        "protocol": "gap",
        "later": 4,
    }
    texts = {
        "editor": "e",
        "data": "d",
        "metric": "reliability",
        "wanted": "target",
        "prompt": "Who?",
        "target": "Ann",
    }
    shown = {"image": "a.png", "note": "n", "answer_before": "Bob", "answer_after": "Änn\n"}
    tokens = {"tokens_wanted": (1, 2), "tokens_after": (3,)}
    record = Record(
        **places,
        **texts,
        **shown,
        **tokens,
        scores={"top10_rank": 0.5, "top1_kept": 0.25},
        costs={"edit_bytes": 3, "edit_seconds": 0.5},
        fired=(Firing(4, 0.5, own=True), Firing(2, 0.25, own=False)),
    )
    assert Record.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()
    assert "aliases" not in record.to_json(), "files of probes without them stay as they were"
    named = replace(record, aliases=("Anna", "Änn"))
    assert Record.from_json(named.to_json()) == named


@pytest.mark.parametrize(
    "fields",
    [
        {"scores": {"top1_kept": "high"}},
        {"scores": {"top10_rank": [1]}},
        {"scores": {"top10_rank": float("nan")}},
        {"scores": {"": 1.0}},
        {"scores": [1.0]},
        {"costs": {"edit_seconds": float("inf")}},
        {"costs": {"query_seconds": None}},
        {"costs": {"edit_bytes": 2**63}},
        {"costs": None},
        {"case": 3},
        {"aliases": (3,)},
        {"fired": (Firing("first", 1.0, own=True),)},
        {"fired": (Firing(1, "all", own=True),)},
    ],
    ids=str,
)
def test_a_record_holds_what_its_fields_say(fields):
    texts = {name: "a" for name, kind in get_type_hints(Record).items() if kind is str}
    numbers = {name: 1 for name, kind in get_type_hints(Record).items() if kind is int}
    plain = Record(
        **texts, **numbers | {"version": 2}, wanted="target", tokens_wanted=(), tokens_after=()
    )
    assert Record.from_json(plain.to_json()) == plain
    with pytest.raises((TypeError, ValueError)):
        Record.from_json(replace(plain, **fields).to_json())


@pytest.mark.parametrize("name", ["seed", "edits", "experts_fired", "later"])
def test_a_number_of_more_bits_than_a_column_has_is_none_of_a_record(name):
    fields = {
        name: 1 if kind is int else "a"
        for name, kind in get_type_hints(Record).items()
        if kind in (int, str)
    }
    fields |= {"version": 2, "wanted": "target", "tokens_wanted": (), "tokens_after": ()}
    most = Record(**fields | {name: 2**63 - 1})
    assert Record.from_json(most.to_json()) == most
    with pytest.raises(ValueError, match=f"{name} has more than 63 bits"):
        Record.from_json(replace(most, **{name: 2**63}).to_json())


def test_what_a_model_said_may_hold_null_characters():
    """Answers of a model are targets of probes and turns of a chat; a question may not."""
    said = Query("Who?", "a\0b", earlier=(Turn("assistant", "a\0b"),))
    assert checked(said) == [said]
    with pytest.raises(BadInput, match="the prompt of a query holds null characters"):
        checked(Query("a\0b"))
