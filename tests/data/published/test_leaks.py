"""Leaks of training into the test: the measured counts, and training without them."""

from itertools import chain

import pytest

from liveedit.data import load_cases
from liveedit.data.published.annotations import FIELDS, Annotation, read
from liveedit.data.published.leaks import clean, edited_locality_images, leaks
from liveedit.data.published.locations import annotations
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

VLKEB = source("vlkeb")
FOLDER = {"e-vqa": "mmedit", "e-ic": "mmedit", "vlkeb": "vlkeb"}


def row(number, **fields):
    texts = {name: f"{number} {name}" for name in FIELDS}
    images = {name: f"{name}-{number}/a.jpg" for name in ("image", "image_rephrase", "m_loc")}
    return Annotation(f"train:{number}", **(texts | images | fields))


def test_clean_drops_what_the_test_shows_and_exchanges_its_probes():
    test = [row(100, image="seen/1.jpg", m_loc="held/1.jpg", loc="who?")]
    train = [
        row(0, image="seen/2.jpg"),
        row(1, image_rephrase="held/9.jpg"),
        row(2, m_loc="held/2.jpg"),
        row(3, loc="who?"),
        row(4, m_loc="seen/3.jpg"),
    ]
    kept = clean(train, test, VLKEB)
    assert [row.id for row in kept] == ["train:2", "train:3", "train:4"]
    assert [row.m_loc for row in kept] == ["m_loc-0/a.jpg", "m_loc-3/a.jpg", "m_loc-1/a.jpg"]
    assert [row.m_loc_q for row in kept] == ["0 m_loc_q", "3 m_loc_q", "1 m_loc_q"]
    assert [row.m_loc_a for row in kept] == ["0 m_loc_a", "3 m_loc_a", "1 m_loc_a"]
    assert [row.loc for row in kept] == ["2 loc", "0 loc", "4 loc"]
    assert [row.loc_ans for row in kept] == ["2 loc_ans", "0 loc_ans", "4 loc_ans"]
    assert [row.alt for row in kept] == ["2 alt", "3 alt", "4 alt"]
    assert all(leak.cases == 0 for leak in leaks(kept, test, VLKEB))


def test_a_question_that_returns_is_never_what_another_is_exchanged_for():
    test = [row(100, loc="who?")]
    train = [row(0, loc="who?"), row(1), row(2, loc="who?"), row(3)]
    assert [row.loc for row in clean(train, test, VLKEB)] == ["1 loc", "1 loc", "3 loc", "3 loc"]


def test_a_locality_probe_is_an_image_and_its_question():
    test = [
        row(100, m_loc="seen/1.jpg", m_loc_q="who?"),
        row(101, m_loc="seen/1.jpg", m_loc_q="where?"),
    ]
    found = {
        leak.what: leak.cases
        for leak in leaks([row(0, m_loc="seen/1.jpg", m_loc_q="who?")], test, VLKEB)
    }
    assert found["the image-locality probe is in training"] == 1
    assert found["any image shows a subject that training shows"] == 2


def test_the_same_answer_leaks_only_about_the_same_subject():
    train = [row(0, image="seen/1.jpg", alt="Ann"), row(1, alt="Bob")]
    test = [
        row(100, image="seen/2.jpg", alt="Bob"),
        row(101, image="seen/3.jpg", alt="Ann"),
        row(102, alt="Ann"),
    ]
    found = {leak.what: leak.cases for leak in leaks(train, test, VLKEB)}
    assert found["the same subject got the same answer in training"] == 1
    assert found["the rephrased image is in training"] == 0


def test_a_training_whose_probes_all_return_is_refused():
    test = [row(100, m_loc="held/1.jpg")]
    with pytest.raises(BadInput, match="use --split paper"):
        clean([row(0, m_loc="held/2.jpg")], test, VLKEB)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("e-vqa", [3, 0, 1, 2, 0, 4]), ("e-ic", [0, 0, 0, 2, 0, 2]), ("vlkeb", [0, 1, 1, 1, 0, 2])],
)
def test_counts_on_the_records_at_hand(added, name, counts):
    train, test = annotations(name, "train"), annotations(name, "test")
    assert [leak.cases for leak in leaks(train, test, source(name))] == counts
    kept = clean(train, test, source(name))
    assert [leak.cases for leak in leaks(kept, test, source(name))] == [0] * 6


@pytest.mark.parametrize("name", ["e-vqa", "e-ic", "vlkeb"])
def test_no_image_of_the_clean_training_is_in_the_test(added, name):
    root = added / FOLDER[name] / "images"

    def images(part):
        queries = chain.from_iterable(case.queries for case in load_cases(name, part))
        shown = [query.image.relative_to(root) for query in queries if query.image]
        return {source(name).subject(path.as_posix()) for path in shown}

    assert not images("train") & images("test")


@pytest.mark.parametrize(
    ("name", "counts", "edited", "left"),
    [
        ("e-vqa", [1380, 0, 92, 2093, 0, 2093], 56, 4692),
        ("e-ic", [0, 0, 0, 1000, 0, 1000], 28, 2784),
        ("vlkeb", [2, 785, 1173, 2071, 0, 2574], 0, 3826),
    ],
)
def test_counts_on_the_published_files(published_files, name, counts, edited, left):
    published = source(name)
    folder = published_files / FOLDER[name]
    train, test = (read(folder / published.files[role]) for role in ("train", "test"))
    assert [leak.cases for leak in leaks(train, test, published)] == counts
    assert edited_locality_images(test) == edited
    kept = clean(train, test, published)
    assert len(kept) == left
    assert [leak.cases for leak in leaks(kept, test, published)] == [0] * 6
