"""Emblem's two files and its data card, through the files alone."""

import io
import json
import re
import zipfile
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
ASSETS = files("liveedit.data.emblem") / "assets"
HELD_OUT = {"flag": "flagpack", "emoji": "noto"}
FLAG_FACTS = {
    "capital",
    "continent",
    "region",
    "language",
    "currency",
    "demonym",
    "code",
    "borders",
}
EMOJI_FACTS = {"kind", "group"}
SIZE_LIMIT = 8e6


@pytest.fixture(scope="module")
def facts():
    return json.loads((ASSETS / "facts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def entities(facts):
    return {row["id"]: row for row in facts["entities"]}


@pytest.fixture(scope="module")
def drawings():
    with zipfile.ZipFile(io.BytesIO((ASSETS / "drawings.zip").read_bytes())) as archive:
        yield archive


def of(entities, sort):
    return [row for row in entities.values() if row["sort"] == sort]


def table(first_column):
    """The rows of the data card's table that starts with this column."""
    card = (ROOT / "docs" / "explanation" / "data-card.md").read_text(encoding="utf-8")
    lines = (
        re.search(rf"^\| {first_column} \|.*\n\|-.*\n((?:\|.*\n)+)", card, re.MULTILINE)
        .group(1)
        .splitlines()
    )
    return {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    }


def number(text):
    return int(text.replace(",", ""))


def test_schema(facts):
    assert set(facts) == {"version", "size", "hands", "entities", "words"}
    assert (facts["version"], facts["size"]) == (1, 128)
    for artist in facts["hands"].values():
        assert set(artist) == {"title", "licence", "attribution", "package"}
        assert all(artist.values())
        assert artist["licence"] in {"Apache-2.0", "CC-BY-4.0", "CC0-1.0", "MIT"}


def test_every_entity_is_whole(facts, entities):
    assert list(entities) == sorted(row["id"] for row in facts["entities"])
    for id, row in entities.items():
        assert set(row) == {"id", "sort", "name", "hands", "facts"}
        assert id.startswith(f"{row['sort']}-")
        assert set(row["facts"]) == (FLAG_FACTS if row["sort"] == "flag" else EMOJI_FACTS), id
        assert all(value for fact, value in row["facts"].items() if fact != "borders"), id
        assert 1 <= len(row["name"].split()) <= 3
        assert row["name"].isascii()


def test_names_are_unique_and_no_spare_word_is_one(facts, entities):
    names = [row["name"] for row in entities.values()]
    assert len(set(names)) == len(names)
    assert len(set(facts["words"])) == len(facts["words"]) == 739
    assert not set(facts["words"]) & {name.lower() for name in names}
    assert all(re.fullmatch(r"[a-z]+( [a-z]+){0,2}", word) for word in facts["words"])


def test_every_entity_has_four_artists_and_the_held_out_one(facts, entities):
    for row in entities.values():
        assert row["hands"] == sorted(set(row["hands"]))
        assert set(row["hands"]) <= set(facts["hands"])
        assert len(row["hands"]) >= 4, row["id"]
        assert HELD_OUT[row["sort"]] in row["hands"], row["id"]


def test_borders_are_mutual_and_inside_emblem(entities):
    for row in of(entities, "flag"):
        assert row["facts"]["borders"] == sorted(set(row["facts"]["borders"]))
        assert row["id"] not in row["facts"]["borders"]
        for other in row["facts"]["borders"]:
            assert row["id"] in entities[other]["facts"]["borders"], (row["id"], other)


@pytest.mark.parametrize(
    ("id", "fact", "value"),
    [
        ("flag-jp", "capital", "Tokyo"),
        ("flag-gb", "borders", ["flag-ie"]),
        ("flag-ch", "currency", "franc"),
        ("flag-ke", "region", "Eastern Africa"),
        ("flag-br", "language", "Portuguese"),
        ("emoji-1f408-200d-2b1b", "kind", "mammal"),
        ("emoji-1f3b8", "group", "object"),
    ],
)
def test_some_facts(entities, id, fact, value):
    assert entities[id]["facts"][fact] == value


def test_a_kind_is_in_one_group(entities):
    pairs = {(row["facts"]["kind"], row["facts"]["group"]) for row in of(entities, "emoji")}
    assert len(pairs) == len({kind for kind, _ in pairs})


def test_the_archive_holds_the_listed_drawings_and_no_clock(entities, drawings):
    listed = []
    for row in entities.values():
        listed += [f"{artist}/{row['id']}.webp" for artist in row["hands"]]
    assert drawings.namelist() == listed
    for entry in drawings.infolist():
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.slow
def test_every_drawing_is_readable_and_not_blank(facts, drawings):
    for name in drawings.namelist():
        with Image.open(io.BytesIO(drawings.read(name))) as drawing:
            assert (drawing.format, drawing.mode, drawing.size) == (
                "WEBP",
                "RGB",
                (facts["size"],) * 2,
            ), name
            pixels = np.asarray(drawing, dtype=np.int16)
        drawn = np.abs(pixels - pixels[0, 0]).max(-1) > 12
        assert drawn.mean() > 0.04, name


def test_no_two_entities_share_a_drawing(drawings):
    artists = Counter((entry.filename.split("/")[0], entry.CRC) for entry in drawings.infolist())
    assert max(artists.values()) == 1


def test_size():
    assert (
        sum(len((ASSETS / name).read_bytes()) for name in ("drawings.zip", "facts.json"))
        < SIZE_LIMIT
    )


def test_the_card_counts_sorts_and_words(facts, entities):
    for sort, (count, drawn, artists, listed) in table("sort").items():
        rows = of(entities, sort)
        sizes = {len(row["hands"]) for row in rows}
        assert number(count) == len(rows)
        assert number(drawn) == sum(len(row["hands"]) for row in rows)
        assert [int(size) for size in re.findall(r"\d", artists)] == [min(sizes), max(sizes)]
        assert set(listed.split(", ")) == (FLAG_FACTS if sort == "flag" else EMOJI_FACTS)
    card = (ROOT / "docs" / "explanation" / "data-card.md").read_text(encoding="utf-8")
    assert f"{len(facts['words'])} spare words" in card
    assert f"{sum(len(row['hands']) for row in entities.values()):,} drawings" in card


def test_the_card_counts_artists(facts, entities):
    rows = table("artist")
    assert set(rows) == set(facts["hands"])
    for artist, (flags, emoji, title, licence) in rows.items():
        drawn = Counter(row["sort"] for row in entities.values() if artist in row["hands"])
        assert (number(flags), number(emoji)) == (drawn["flag"], drawn["emoji"])
        assert title.split(", **")[0] == facts["hands"][artist]["title"]
        assert ("held out" in title) == (artist in HELD_OUT.values())
        assert licence == facts["hands"][artist]["licence"]


def test_the_card_counts_kinds(entities):
    rows = {kind: (number(count), group) for kind, (count, group) in table("kind").items()}
    kinds = Counter((row["facts"]["kind"], row["facts"]["group"]) for row in of(entities, "emoji"))
    assert rows == {kind: (count, group) for (kind, group), count in kinds.items()}


def test_notice_names_every_package(facts):
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for artist in facts["hands"].values():
        assert artist["package"] in notice
