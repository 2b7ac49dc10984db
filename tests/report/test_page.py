"""The page: whole, safe, small, and the same each time."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from liveedit.errors import BadInput
from liveedit.report import page
from liveedit.report.files import Reading
from liveedit.report.scores import summary
from liveedit.types import Firing

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Nesting(HTMLParser):
    """Fails on an end tag that closes nothing, counts elements, gathers text by class."""

    def __init__(self):
        super().__init__()
        self.open, self.cards = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self.cards.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def nothing(name):
    return None


def draw(records, images=nothing, **reading):
    html = page.render(Reading(records, **reading), summary(records), images)
    parser = Nesting()
    parser.feed(html)
    assert parser.open == []
    return html, parser.cards


def photo(name):
    return Image.effect_noise((300, 200), 90).convert("RGB")


def test_page_needs_nothing_from_elsewhere(run):
    html, _ = draw(run(), photo)
    assert not re.findall(r"https?://", html)
    assert not re.findall(r"<(?:link|img|iframe)\b| src=", html)


def test_page_is_the_same_each_time(run):
    assert draw(run())[0] == draw(run())[0]


def test_answers_are_escaped(record):
    evil = "<script>alert(1)</script>"
    fields = ("prompt", "target", "answer_before", "answer_after", "image", "editor", "data", "case", "metric")
    html, _ = draw([record(**dict.fromkeys(fields, evil)), record(**dict.fromkeys(fields, "\"'>" + evil), probe=1)])
    assert "alert(1)" in html
    assert html.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in html


def test_a_card_tells_all(record):
    card = record(
        metric="look_alike_image", wanted="before", probe=1, answer_before="Chile", answer_after="Japan", case="a",
        fired=(Firing(3, 0.75, own=True), Firing(9, 0.125, own=False)), experts_fired=5,
    )  # fmt: skip
    html, cards = draw([card, record(case="a", prompt="Whose flag?")])
    assert [c["data-verdict"] for c in cards] == ["right", "wrong"]
    text = " ".join(re.sub(r"<[^>]*>", " ", html[html.rindex("<article") :]).split())
    for part in ("✗ wrong", "Look-alike image", "as before", "Chile", "#3 0.75 own", "#9 0.12", "+ 3 more"):
        assert part in text
    assert "Edited: Whose flag? → Japan" in text


def test_the_header_tells_what_was_left_out(record):
    html, _ = draw([record()], half_lines=2, repeated=7)
    assert "<dt>Half-written lines left out</dt><dd>2</dd>" in html
    assert "<dt>Repeated records passed over</dt><dd>7</dd>" in html


@pytest.mark.parametrize("error", [KeyError("x"), OSError("x"), BadInput("x"), ValueError("x")])
def test_a_picture_that_is_lost_is_a_placeholder(record, error):
    def broken(name):
        raise error

    for images in (nothing, broken):
        html, _ = draw([record()], images)
        assert "image not found" in html
        assert "background-image: url(" not in html


def test_a_picture_is_embedded_once(record):
    records = [record(case=str(i), edits=n) for n in (1, 10) for i in range(3)]
    html, cards = draw(records, photo)
    assert len(cards) == 6
    assert html.count("data:image/webp;base64,") == 1


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1"])
def test_pictures_of_all_modes(record, mode):
    assert "data:image/webp" in draw([record()], lambda name: Image.new(mode, (40, 20)))[0]


def test_a_large_run_stays_small(run):
    editors = [f"editor-{i}" for i in range(8)]
    html, cards = draw(run(editors, sizes=(1, 10, 100, 1000, 3000, 10000), cases=30), photo)
    assert len(cards) == 360
    assert len(html.encode()) < 3_000_000


def test_the_choice_mixes_metrics_editors_right_and_wrong(run):
    records = run(sizes=(100,), cases=60)
    chosen = page.choose(records, 60)
    assert len(chosen) == 60
    for metric in {r.metric for r in records}:
        cards = [page.Card(r, None) for r in chosen if r.metric == metric]
        assert {card.right for card in cards} == {True, False}
        assert {card.record.editor for card in cards} == {"ft", "liveedit"}


def test_the_choice_does_not_depend_on_the_order_of_records(run):
    records = run(sizes=(10,), cases=30)
    assert page.choose(records) == page.choose(records[::-1])


def test_long_texts_are_cut(record):
    html, _ = draw([record(answer_after="word " * 1000)])
    assert "word …" in html
    assert len(re.findall("word ", html)) < 100
