"""The lifelong test on a tiny model: windows, records, a kill in the middle, and faults."""

import json

import pytest
import torch
from PIL import Image

from liveedit.editors.ft import FTL, FTLConfig
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.evaluate import evaluate
from liveedit.evaluate.metrics import predicted_tokens, ranked_tokens, ranks_kept
from liveedit.evaluate.protocol import windows
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query, Record

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "grey")


def case(colour):
    image = Image.new("RGB", (32, 32), colour)
    image.info["name"] = f"drawn:{colour}"
    edit = Query("What is the country with this flag?", colour, image)
    return Case(
        f"case-{colour}",
        (edit,),
        (
            Probe("reliability", edit),
            Probe("image_locality", Query("Which film is this?", "Casablanca", image), "before"),
            Probe("text_locality", Query("who sang the song", "nobody"), "before"),
            Probe("text_locality", Query("who wrote it"), "before", note="no target"),
        ),
    )


CASES = [case(colour) for colour in COLOURS]


@pytest.fixture(scope="module")
def editor():
    return FTL(tiny("llava"), FTLConfig(steps=3, lr=1e-2))


def run(editor, out, **changes):
    options = {"edits": (1, 3), "data": "drawn", "seed": 0, "max_cases": 3, "batch_size": 4} | changes
    path = evaluate(editor.vlm, editor, CASES, out=out, **options)
    return [Record.from_json(line) for line in path.read_text().splitlines()]


def stable(records):
    """Records without what is measured by the clock, in a fixed order."""
    rows = [json.loads(r.to_json()) for r in records]
    for row in rows:
        row.pop("edit_seconds")
        row.pop("query_seconds")
    return sorted(rows, key=lambda row: (row["edits"], row["window"], row["case"], row["probe"]))


def test_windows_are_consecutive_and_the_rest_is_dropped():
    made = list(windows(CASES, 3, max_cases=100))
    assert [[c.id for c in w.cases] for w in made] == [[c.id for c in CASES[:3]], [c.id for c in CASES[3:6]]]
    assert len(list(windows(CASES, 1, max_cases=4))) == 4
    assert len(list(windows(CASES, 3, max_cases=1))) == 1


def test_a_sample_of_a_window_is_spread_over_it():
    [window] = windows(CASES, 7, max_cases=1, ask=3)
    assert window.asked == (0, 2, 4)
    assert len(window.cases) == 7


def test_more_edits_than_cases_is_refused():
    with pytest.raises(BadInput, match="8 edits in one pool"):
        list(windows(CASES, 8, max_cases=1))


def test_one_record_a_probe(editor, tmp_path):
    records = run(editor, tmp_path)
    assert len(records) == (3 + 3) * 4
    assert {(r.edits, r.window) for r in records} == {(1, 0), (1, 1), (1, 2), (3, 0)}
    first = next(r for r in records if r.metric == "reliability")
    assert first.image == "drawn:red"
    assert first.edit_bytes > 0
    assert first.edit_seconds > 0
    assert all((r.top10_kept is None) == (r.wanted == "target") for r in records)


def test_records_agree_with_a_plain_loop(editor, tmp_path):
    vlm = editor.vlm
    for record in run(editor, tmp_path, edits=(3,)):
        probe = next(c for c in CASES if c.id == record.case).probes[record.probe]
        target = probe.query.target or record.answer_before
        query = Query(probe.query.prompt, target, probe.query.image)
        with torch.no_grad():
            batch = vlm.encode([query])
            before = vlm.logits(batch)[0][batch.answer_positions()[0]].argmax(-1).tolist()
            with vlm.patched(editor.edit([c.edits[0] for c in CASES[:3]])):
                after = vlm.logits(batch)[0][batch.answer_positions()[0]].argmax(-1).tolist()
                assert record.answer_after == vlm.generate([probe.query])[0]
        gold = batch.labels[batch.labels >= 0].tolist()
        assert list(record.tokens_after) == after
        assert list(record.tokens_wanted) == (gold if probe.wanted == "target" else before)


def test_ranks_kept_is_the_share_of_equal_slots(editor):
    batch = editor.vlm.encode([CASES[0].edits[0], Query("who sang")])
    with torch.no_grad():
        logits = editor.vlm.logits(batch)
    other = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    found = ranks_kept(ranked_tokens(logits, batch), ranked_tokens(other, batch))
    for row, share in enumerate(found):
        equal = total = 0
        for t in range(logits.shape[1]):
            if batch.inputs["attention_mask"][row, t]:
                one, two = (x[row, t].argsort(descending=True)[:10].tolist() for x in (logits, other))
                equal += sum(a == b for a, b in zip(one, two, strict=True))
                total += 10
        assert share == pytest.approx(equal / total)
    assert ranks_kept(ranked_tokens(logits, batch), ranked_tokens(logits, batch)) == [1.0, 1.0]
    assert [len(tokens) for tokens in predicted_tokens(logits, batch)] == batch.answer_positions().sum(1).tolist()


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("after", [1, 6, 13, 20])
def test_a_run_that_was_killed_goes_on(editor, tmp_path, after):
    def kill(done, total, label):
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        run(editor, tmp_path / "a", progress=kill)
    with (tmp_path / "a" / "records-ft-l.jsonl").open("a") as file:
        file.write('{"editor": "ft-l", "da')
    assert stable(run(editor, tmp_path / "a")) == stable(run(editor, tmp_path / "b"))


def test_a_finished_run_edits_nothing_again(editor, tmp_path, monkeypatch):
    records = run(editor, tmp_path)
    monkeypatch.setattr(editor, "edit", None)
    assert stable(run(editor, tmp_path)) == stable(records)


def test_another_editors_records_are_refused(editor, tmp_path):
    run(editor, tmp_path)
    with pytest.raises(Mismatch, match="editor_fingerprint"):
        run(FTL(editor.vlm, FTLConfig(steps=4)), tmp_path)
    with pytest.raises(Mismatch, match="data"):
        run(editor, tmp_path, data="other")


def test_a_full_disk_keeps_what_was_written(editor, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    seen = []
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        run(editor, tmp_path, progress=lambda *a: (seen.append(a), patch.setattr("os.fsync", full) if len(seen) > 2 else None))
    assert stable(run(editor, tmp_path)) == stable(run(editor, tmp_path / "whole"))


def test_records_are_scored_without_the_model(editor, tmp_path):
    from liveedit.report import read_records, summary

    run(editor, tmp_path)
    rows = {(r["edits"], r["metric"], r["score"]): r for r in summary(read_records(tmp_path).records)["rows"]}
    assert rows[3, "text_locality", "top10_rank"]["n"] == 6
    assert 0 <= rows[1, "reliability", "token_accuracy"]["value"] <= 1
