"""The page: whole, safe, small, the same each time, and every answer beside the others."""

import html as htmllib
import json
import random
import re
from html.parser import HTMLParser
from itertools import product

import pytest
from PIL import Image

from liveedit.errors import BadInput
from liveedit.measures.costs import COSTS
from liveedit.measures.metrics import METRICS, label
from liveedit.measures.protocols import PROTOCOLS
from liveedit.measures.scores import SCORES
from liveedit.report import cases, page
from liveedit.report.columns import columns
from liveedit.report.files import Reading, read_records
from liveedit.report.results import results_of
from liveedit.types import Firing

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Nesting(HTMLParser):
    """Fails on an end tag that closes nothing, gathers attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def nothing(name):
    return None


def photo(name):
    return Image.effect_noise((300, 200), 90).convert("RGB")


@pytest.fixture
def draw(tmp_path, save):
    """The page of records, and the JSON in it."""

    def draw(records, images=nothing, half=""):
        path = save(tmp_path / "records-0.jsonl", records)
        with path.open("a") as file:
            file.write(half)
        html = page.render(results_of(Reading([path])), images)
        parser = Nesting()
        parser.feed(html)
        assert parser.open == []
        found = re.search(
            r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL
        )
        return html, json.loads(found[1])

    return draw


def answers(data, case=0):
    """{(metric, setting, editor): (answer, right, percent of tokens, experts)} of a case."""
    found = {}
    for probe in data["cases"][case][2]:
        metric = data["metrics"][probe[0]][0]
        for setting, row in probe[6].items():
            for editor, number in zip(data["editors"], row, strict=True):
                if number >= 0:
                    text, *rest = data["outcomes"][number]
                    key = metric, data["settings"][int(setting)], editor
                    found[key] = (data["texts"][text], *rest)
    return found


def test_page_needs_nothing_from_elsewhere(run, draw):
    html, _ = draw(run(cases=3), photo)
    assert not re.findall(r"https?://", html)
    assert not re.findall(r"<(?:link|img|iframe)\b| src=", html)


def test_the_legend_explains_what_the_report_shows_and_no_more(record, draw):
    html, _ = draw([record(metric="reliability", protocol="windows")])
    legend = htmllib.unescape(html[html.index('class="legend"') : html.index("</details>")])
    explained = {
        kind.name
        for kind in (*METRICS, *SCORES, *PROTOCOLS.values())
        if kind.meaning and kind.meaning in legend
    }
    assert explained == {"reliability", "windows", "token_accuracy", "exact_match", "contains"}


def test_page_is_the_same_each_time(run, draw):
    assert draw(run(cases=2))[0] == draw(run(cases=2))[0]


def test_every_answer_stands_beside_the_others(run, draw):
    records = run(cases=3)
    _, data = draw(records)
    assert (len(data["cases"]), data["of"]) == (3, 3)
    for number in range(3):
        own = [r for r in records if r.case == f"edit:{number}"]
        found = answers(data, number)
        assert len(found) == len(own)
        for r in own:
            said, right, tokens, _ = found[r.metric, f"{r.edits:,}", r.editor]
            assert said == r.answer_after
            assert right == (r.answer_after != "Chile")
            assert tokens == (100 if right else 50)


def test_a_probe_shows_question_target_and_picture(record, draw):
    probe = record(
        metric="look_alike_image", wanted="before", probe=1, image="b",
        answer_before="Chile", answer_after="Japan",
        fired=(Firing(3, 0.75, own=True), Firing(9, 0.125, own=False)), experts_fired=5,
    )  # fmt: skip
    _, data = draw([probe, record(prompt="Whose flag?", image="a")])
    [[benchmark, edit, probes]] = data["cases"]
    names = [name for name, _ in data["pictures"]]
    assert benchmark == "emblem"
    assert (data["texts"][edit[0]], data["texts"][edit[1]], names[edit[2]]) == (
        "Whose flag?",
        "Japan",
        "a",
    )
    [rel, alike] = probes
    assert data["texts"][rel[2]] == "Japan"
    assert (data["texts"][rel[4]], rel[5]) == ("France", 0)
    assert (alike[2], names[alike[3]], data["texts"][alike[4]], alike[5]) == (
        -1,
        "b",
        "Chile",
        None,
    )
    assert (
        answers(data)["look_alike_image", "10", "liveedit"][3] == "#3 0.75 own, #9 0.12, + 3 more"
    )


def test_texts_and_pictures_stand_once(record, draw):
    places = product((1, 10), range(3), "ab")
    records = [record(case=str(i), edits=n, editor=e) for n, i, e in places]
    html, data = draw(records, photo)
    assert html.count("data:image/webp;base64,") == 1
    assert len(data["texts"]) == len(set(data["texts"])) == 3
    assert len(data["outcomes"]) == 1


def test_a_missing_method_at_an_n_leaves_its_place_empty(record, draw):
    _, data = draw([record(editor="a"), record(editor="b"), record(editor="a", edits=100)])
    assert set(answers(data)) == {
        ("reliability", "10", "a"),
        ("reliability", "10", "b"),
        ("reliability", "100", "a"),
    }
    assert data["settings"][data["start"]] == "100"


def test_a_case_without_its_edit_is_shown(record, draw):
    assert draw([record(metric="text_generality")])[1]["cases"][0][1] is None


def test_seeds_and_protocols(record, draw):
    records = [record(seed=s, answer_after=f"seed {s}") for s in (2, 1)]
    html, data = draw([*records, record(seed=1, protocol="gap", later=20)])
    assert data["settings"] == ["10", "gap 20"]
    assert data["start"] == 0
    assert answers(data)["reliability", "10", "liveedit"][0] == "seed 1"
    assert "from the first seed" in html
    assert 'data-edits="gap 20"' in html


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])
def test_answers_are_those_of_the_first_seed_in_whatever_order_they_come(record, draw, seeds):
    _, data = draw([record(seed=seed, answer_after=f"seed {seed}") for seed in seeds])
    assert answers(data)["reliability", "10", "liveedit"][0] == "seed 1"
    assert "seed 2" not in data["texts"]


def test_a_probe_without_tokens_has_no_percentage(record, draw):
    _, data = draw([record(tokens_wanted=(), tokens_after=())])
    assert answers(data)["reliability", "10", "liveedit"][2] is None


def test_cases_are_distinguished_by_their_benchmark(record, draw):
    html, data = draw([record(data="emblem"), record(data="vlkeb")])
    assert data["of"] == len(data["cases"]) == 2
    assert "<dt>Cases</dt><dd>2</dd>" in html


def test_answers_are_escaped(record, draw):
    evil = "</script><script>alert(1)</script>"
    fields = (
        "prompt",
        "target",
        "answer_before",
        "answer_after",
        "image",
        "editor",
        "data",
        "case",
        "metric",
    )
    html, data = draw(
        [
            record(**dict.fromkeys(fields, evil)),
            record(**dict.fromkeys(fields, "\"'>" + evil), probe=1),
        ]
    )
    assert evil not in html
    assert html.count("</script>") == 2
    assert htmllib.escape("<script>alert(1)", quote=False) in html
    assert evil in data["texts"]


def test_the_header_counts_what_was_left_out(record, draw):
    html, _ = draw([record(), record()], half='{"editor"')
    assert "<dt>Incomplete lines left out</dt><dd>1</dd>" in html
    assert "<dt>Repeated records left out</dt><dd>1</dd>" in html


def test_the_header_names_date_model_versions_and_device(record, save, tmp_path):
    for name, day, version in (
        ("a", "2026-01-03", "1.0"),
        ("b", "2026-01-02", "1.0"),
        ("c", "2026-01-02", "2.0"),
    ):
        path = save(tmp_path / name / "records-0.jsonl", [record(editor=name)])
        call = {
            "time": f"{day}T10:00",
            "model": "org/model",
            "versions": {"torch": version},
            "device": "cpu",
        }
        path.with_name("run.json").write_text(
            json.dumps({"calls": [call, "no call"]}), encoding="utf-8"
        )
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("[")
    html = page.render(results_of(read_records(tmp_path)), nothing)
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert facts["Made"] == "2026-01-02 to 2026-01-03"
    assert facts["Model"] == "org/model"
    assert facts["Versions"] == "torch 1.0; torch 2.0"
    assert facts["Device"] == "cpu"


def test_scores_costs_and_protocols_are_explained(record, draw):
    html, _ = draw([record(protocol="gap", later=3)])
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    shown = [score for score in SCORES if score.of_record and score.shown]
    for measure in (*shown, *COSTS):
        assert htmllib.unescape(facts[measure.heading]) == measure.meaning
    assert htmllib.unescape(facts["gap"]) == PROTOCOLS["gap"].meaning
    assert "windows" not in facts
    assert "Exact match of the unedited model" not in facts


def test_each_column_is_explained(record, draw):
    meanings = {metric.name: metric.meaning for metric in METRICS if metric.meaning}
    asked = [name for name in meanings if name != "average"]
    html, _ = draw([record(metric=name, probe=probe) for probe, name in enumerate(asked)])
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    for name, meaning in meanings.items():
        assert facts[label(name)] == htmllib.escape(meaning).replace("&#x27;", "&#39;")
    html, _ = draw([record(metric="reliability")])
    assert meanings["look_alike_image"] not in html


@pytest.mark.parametrize("error", [KeyError("x"), OSError("x"), BadInput("x"), ValueError("x")])
def test_a_picture_that_is_lost_is_a_placeholder(record, draw, error):
    def broken(name):
        raise error

    for images in (nothing, broken):
        _, data = draw([record()], images)
        assert data["pictures"] == [["emblem:twemoji/jp", ""]]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1"])
def test_pictures_of_all_modes(record, draw, mode):
    assert "data:image/webp" in draw([record()], lambda name: Image.new(mode, (40, 20)))[0]


def test_pictures_shrink_until_they_fit(record, draw, monkeypatch):
    records = [record(case=str(i), image=str(i)) for i in range(8)]
    whole = len(draw(records, photo)[0])
    monkeypatch.setattr(page, "PICTURE_BYTES", 20_000)
    small, data = draw(records, photo)
    assert len(small) < whole
    assert sum(len(uri) for _, uri in data["pictures"]) <= 20_000


def test_a_large_run_shows_some_cases_evenly_spread(record, draw, monkeypatch):
    monkeypatch.setattr(cases, "CASES", 5)
    records = [record(case=f"c{i:02}", target=f"t{i:02}") for i in range(40)]
    html, data = draw(records)
    assert [data["texts"][edit[1]] for _, edit, _ in data["cases"]] == [
        "t00",
        "t08",
        "t16",
        "t24",
        "t32",
    ]
    assert "5 of 40 cases are shown" in html


def test_cases_that_were_asked_about_most_often_are_shown_first(record, draw, monkeypatch):
    monkeypatch.setattr(cases, "CASES", 2)
    records = [record(case=c, target=c) for c in "abcdef"] + [
        record(case=c, target=c, edits=100) for c in "be"
    ]
    _, data = draw(records)
    assert [data["texts"][edit[1]] for _, edit, _ in data["cases"]] == ["b", "e"]


def test_many_answers_stay_few_bytes(draw, record):
    """14 editors at 4 N answer 14 probes of 10 cases in 8 bytes an answer, beside the tables."""
    chance = random.Random(0)
    records = [
        record(
            editor=f"e{e}",
            edits=n,
            case=str(c),
            probe=p,
            metric=f"m{p}",
            prompt=f"question {c} {p}",
            answer_after=chance.choice(("Japan", "Chile", "Peru")),
        )
        for e, n, c, p in product(range(14), (1, 10, 100, 1000), range(10), range(14))
    ]
    value, _ = cases.cases_json(Held(records), columns(records), [f"e{e}" for e in range(14)])
    assert len(json.dumps(value)) < 8 * len(records)


class Held:
    """Records in memory, read as those in files are."""

    def __init__(self, records):
        self.records = records

    def pick(self, numbers):
        return [(number, self.records[number]) for number in sorted(numbers)]


def test_long_texts_are_cut(record, draw):
    html, _ = draw([record(answer_after="word " * 1000)])
    assert "word …" in html
    assert len(re.findall("word ", html)) < 100
