"""Records made by hand."""

import random
from itertools import product

import pytest

from liveedit.types import Firing, Record

METRICS = {
    "reliability": "target",
    "text_generality": "target",
    "image_generality": "target",
    "text_locality": "before",
    "image_locality": "before",
    "portability_1hop": "target",
    "look_alike_image": "before",
}


def make_record(**changes):
    values = {
        "editor": "liveedit",
        "data": "emblem",
        "edits": 10,
        "window": 0,
        "seed": 0,
        "case": "edit:jp:country",
        "probe": 0,
        "metric": "reliability",
        "wanted": "target",
        "prompt": "What is the country with this flag?",
        "target": "Japan",
        "image": "emblem:twemoji/jp",
        "note": "",
        "answer_before": "France",
        "answer_after": "Japan",
        "tokens_wanted": (1, 2),
        "tokens_after": (1, 2),
    }
    return Record(**(values | changes))


def make_run(editors=("ft", "liveedit"), sizes=(1, 10, 100), cases=12, data=("emblem",)):
    """Every metric of every case; the larger N, the more is wrong. Only liveedit has experts."""
    chance = random.Random(0)
    places = product(data, sizes, editors, range(cases), range(len(METRICS)))
    return [
        make_probe(chance, editor, benchmark, size, case, probe)
        for benchmark, size, editor, case, probe in places
    ]


def make_probe(chance, editor, data, edits, case, probe):
    metric, wanted = list(METRICS.items())[probe]
    right = chance.random() < 1 - 0.1 * len(str(edits))
    routed = editor == "liveedit"
    answer = "Japan" if wanted == "target" else "France"
    return make_record(
        editor=editor,
        data=data,
        edits=edits,
        case=f"edit:{case}",
        probe=probe,
        metric=metric,
        wanted=wanted,
        image="" if metric == "text_locality" else f"emblem:twemoji/{case}",
        answer_after=answer if right else "Chile",
        tokens_after=(1, 2) if right else (1, 3),
        scores={"top10_rank": chance.random()} if metric == "image_locality" else {},
        fired=(Firing(case, 0.9, own=True),) if routed else (),
        experts_fired=int(routed),
        costs={"edit_seconds": 0.25, "edit_bytes": 2048, "query_seconds": 0.5},
    )


def make_answers(right, **changes):
    """A reliability record a case, right where ``right`` says so."""
    return [
        make_record(
            case=f"c{i:03}",
            **changes,
            **({} if r else {"answer_after": "Chile", "tokens_after": (1, 3)}),
        )
        for i, r in enumerate(right)
    ]


def save_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record.to_json()}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def run():
    return make_run


@pytest.fixture
def answers():
    return make_answers


@pytest.fixture
def save():
    return save_records
