"""Whole evaluations on a tiny model: their records, and how they go on after a stop."""

import codecs
import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from liveedit.editors import new_editor
from liveedit.editors.base import Editor
from liveedit.editors.ft import FTL, FTLConfig
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.evaluate import Evaluation, Windows, evaluate, note_failure
from liveedit.evaluate.run import answer_limit
from liveedit.measures.costs import COSTS
from liveedit.measures.scores import SCORES
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.report import failures, read_records, summary, write_report
from liveedit.types import Case, Probe, Query, Record

FT = FTLConfig(lr=0.1)  # a tiny model has far to go
PLAN = Windows((1, 3), 3)


class Experts(Patch):
    """Adds to a layer's output; an expert of every edit fires, later ones with larger weights."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def bind(self, batch):
        batch.fired[self] = [[(expert, (1 + expert) / 10) for expert in range(self.count)]] * len(
            batch
        )
        return {"layers.1": lambda states: states + self.count} if self.count else {}


class Firing(Editor):
    @dataclass(frozen=True)
    class Config:
        """Settings of the editor.

        Arguments:
            acts: Whether it has experts.
        """

        acts: bool = True

    name, paper = "firing", ""

    def edit(self, queries, patch=None):
        return Experts(len(queries) if self.config.acts else 0)


@pytest.fixture(scope="session")
def run(evaluated):
    """Evaluates fine-tuning, or another editor, at 1 and 3 edits, and gives its records."""

    def run(vlm, cases, out, editor=None, protocol=PLAN, **options):
        return evaluated(vlm, cases, out, editor or FTL(vlm, FT), protocol, **options)

    return run


def place(record):
    return record.edits, record.window, record.case, record.probe


@pytest.fixture(scope="module")
def made(cases):
    return cases(4)


@pytest.fixture(scope="module")
def whole(vlm, made, tmp_path_factory, run):
    """The records of an uninterrupted run, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "ft"
    return run(vlm, made, out), out


def test_one_record_a_probe_in_the_order_of_the_plan(whole):
    records, _ = whole
    probes = list(product(range(3), range(4)))
    wanted = [(1, n, f"case:{n}", probe) for n, probe in probes]
    wanted += [(3, 0, f"case:{n}", probe) for n, probe in probes]
    assert [place(record) for record in records] == wanted


def test_the_fields_of_a_record(whole, made, vlm):
    record = whole[0][2]
    assert (record.editor, record.data, record.seed) == ("ft-l", "drawn", 7)
    assert (record.metric, record.wanted, record.note) == ("image_locality", "before", "far")
    assert (record.prompt, record.target) == ("Which film is it?", "Casablanca")
    assert record.image == "drawn:100"
    assert whole[0][3].image == ""
    assert record.costs["edit_seconds"] > 0
    assert record.costs["query_seconds"] > 0
    assert record.costs["edit_bytes"] == 32 * 64 * 4  # the down projection of one edit
    assert whole[0][-1].costs["edit_bytes"] == 32 * 64 * 4 // 3
    assert record.fired == ()
    assert record.experts_fired == 0


def test_all_scores_and_costs_are_in_the_records(whole):
    common = {"token_accuracy", "exact_match"}
    names = {
        "target": common | {"contains", "unedited_match"},
        "before": common | {"top1_kept", "top10_rank"},
    }
    for record in whole[0]:
        assert names[record.wanted] <= set(record.scores) <= {score.name for score in SCORES}
        assert list(record.costs) == [cost.name for cost in COSTS]


def test_an_edit_is_seen(whole, made, vlm):
    """The tiny model cannot learn an answer by heart, but much of it."""
    records = [
        record for record in whole[0] if record.metric == "reliability" and record.edits == 1
    ]
    right, before, total = 0, 0, 0
    for record in records:
        target, unedited = slow_tokens(vlm, made[int(record.case[-1])].edits[0])
        right += sum(map(int.__eq__, record.tokens_after, record.tokens_wanted))
        before += sum(map(int.__eq__, unedited, target))
        total += len(target)
    assert before < total / 4 < total / 2 < right
    assert all(record.answer_before != record.answer_after for record in records)


def slow_tokens(vlm, query):
    """Answer tokens and those predicted, one query alone."""
    batch = vlm.encode([query])
    logits = vlm.logits(batch)[0]
    start, stop = batch.spans[0].answer
    ids = batch.inputs["input_ids"][0]
    return tuple(ids[start:stop].tolist()), tuple(
        int(logits[t - 1].argmax()) for t in range(start, stop)
    )


@pytest.mark.slow
@pytest.mark.parametrize("edits", [1, 3])
def test_against_one_query_at_a_time(whole, made, vlm, edits):
    patch = FTL(vlm, FT).edit([case.edits[0] for case in made[:edits]])
    limit = answer_limit(vlm, made)
    for record in whole[0]:
        if record.edits != edits or record.window:
            continue
        probe = made[int(record.case[-1])].probes[record.probe]
        assert record.answer_before == vlm.generate([probe.query], max_new_tokens=limit)[0]
        forced = replace(probe.query, target=probe.query.target or record.answer_before)
        target, before = slow_tokens(vlm, forced)
        assert record.tokens_wanted == (before if probe.wanted == "before" else target)
        logits = vlm.logits(vlm.encode([forced]))
        with vlm.patched(patch):
            assert record.answer_after == vlm.generate([probe.query], max_new_tokens=limit)[0]
            assert record.tokens_after == slow_tokens(vlm, forced)[1]
            edited = vlm.logits(vlm.encode([forced]))
        same = logits.topk(10).indices == edited.topk(10).indices
        kept = float(same.double().mean()) if probe.wanted == "before" else None
        assert record.scores.get("top10_rank") == kept


def test_a_question_without_answer_is_compared_at_the_models_own(whole, vlm):
    record = whole[0][3]
    assert record.target == ""
    target, _ = slow_tokens(vlm, Query(record.prompt, record.answer_before))
    assert record.answer_before
    assert len(record.tokens_wanted) == len(target)


@pytest.mark.slow
def test_the_size_of_batches_changes_nothing(whole, made, vlm, tmp_path, run, timeless):
    records = run(vlm, made, tmp_path, batch_size=1)
    for one, other in zip(records, whole[0], strict=True):
        assert timeless(one) == timeless(other)


def test_the_model_is_left_as_it_was(made, vlm, tmp_path, run):
    batch = vlm.encode([probe.query for probe in made[0].probes])
    logits = vlm.logits(batch)
    run(vlm, made, tmp_path, protocol=Windows((3,), 3))
    assert torch.equal(vlm.logits(batch), logits)
    assert vlm.patches == []


def test_an_editor_that_does_nothing_keeps_everything(made, vlm, tmp_path, run):
    for record in run(vlm, made, tmp_path, Firing(vlm, Firing.Config(acts=False))):
        assert record.answer_after == record.answer_before
        assert record.costs["edit_bytes"] == 0
        if record.wanted == "before":
            assert record.tokens_after == record.tokens_wanted
            assert record.scores["top10_rank"] == 1.0


def test_who_fired(cases, vlm, tmp_path, run):
    records = run(vlm, cases(7), tmp_path, Firing(vlm), Windows((7,)))
    assert all(record.experts_fired == 7 for record in records)
    for record in records:
        own = int(record.case[-1])
        assert [firing.expert for firing in record.fired] == [6, 5, 4, 3, 2]
        assert [firing.own for firing in record.fired] == [
            firing.expert == own for firing in record.fired
        ]
        assert record.fired[0].weight == pytest.approx(0.7)


def test_liveedits_experts_are_on_record(made, vlm, tmp_path, run):
    torch.manual_seed(0)
    editor = new_editor(vlm, "liveedit", {"module_dim": 16, "heads": 2, "layer": 2, "margin": -1e3})
    records = run(vlm, made, tmp_path, editor, Windows((3,)))
    patch = editor.edit([case.edits[0] for case in made[:3]])
    for record in records:
        probe = made[int(record.case[-1])].probes[record.probe]
        with vlm.patched(patch):
            wanted = list(vlm.answers([probe.query])[0].fired)
        assert record.experts_fired == len(wanted) == (0 if probe.query.image is None else 3)
        assert [firing.expert for firing in record.fired] == [expert for expert, _ in wanted]
        assert [firing.weight for firing in record.fired] == pytest.approx(
            [weight for _, weight in wanted], rel=1e-4
        )
        assert [firing.own for firing in record.fired] == [
            expert == int(record.case[-1]) for expert, _ in wanted
        ]
        assert record.costs["edit_bytes"] == patch.nbytes // 3 > 0


def test_asking_about_some_cases(cases, vlm, tmp_path, run):
    records = run(vlm, cases(7), tmp_path, Firing(vlm), Windows((7,), ask=2))
    assert [record.case for record in records[::4]] == ["case:0", "case:3"]
    assert all(record.experts_fired == 7 for record in records)
    more = run(vlm, cases(7), tmp_path, Firing(vlm), Windows((7,)))
    assert [record for record in more if record.case in ("case:0", "case:3")] == records
    assert len({place(record) for record in more}) == len(more) == 28


def test_unedited_answers_are_computed_once(made, vlm, tmp_path, monkeypatch, run):
    asked = []
    answers = type(vlm).answers

    def counted(self, queries, **options):
        asked.extend(query.prompt for query in queries if not self.patches)
        return answers(self, queries, **options)

    monkeypatch.setattr(type(vlm), "answers", counted)
    run(vlm, made, tmp_path, Firing(vlm))
    assert len(asked) == 3 * 4


def test_long_targets_get_room(made, vlm):
    assert answer_limit(vlm, made) == 16
    target = "a song of the movie " * 8
    long = Case(
        "long",
        made[0].edits,
        (Probe("reliability", Query("?", target)), Probe("x", Query("?", target * 2), "before")),
    )
    assert answer_limit(vlm, [*made, long]) == len(
        vlm.tokenizer(target)["input_ids"]
    )  # BOS makes up for the end


def test_progress_counts_probes(made, vlm, tmp_path, run):
    reported = []
    run(vlm, made, tmp_path, Firing(vlm), watcher=reported.append, label="x")
    done = [news.done for news in reported]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 24)
    assert {(news.editor, news.total) for news in reported} == {("x", 24)}
    assert [news.stage for news in reported[:2]] == ["unedited model", "unedited model"]
    assert reported[0].seconds_left is None
    assert reported[-1].seconds_left == 0
    assert all(news.seconds_left > 0 for news in reported[-4:-1])


# Going on after a stop


@pytest.mark.one_in(4)
@pytest.mark.parametrize("probes", [0, 4, 12, 20])
def test_a_killed_run_goes_on(whole, made, vlm, tmp_path, probes, run, timeless, stop_at):
    with pytest.raises(KeyboardInterrupt):
        run(vlm, made, tmp_path, watcher=stop_at(probes))
    left = (tmp_path / "records-ft-l.jsonl").read_text(encoding="utf-8") if probes else ""
    assert len(left.splitlines()) == probes
    records = run(vlm, made, tmp_path)
    assert [timeless(record) for record in records] == [timeless(record) for record in whole[0]]
    assert set(left.splitlines()) <= set(
        (tmp_path / "records-ft-l.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert len(json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["calls"]) == 2


def version_1(record):
    """The line of a record as version 1 wrote it."""
    row = json.loads(record.to_json()) | {"version": 1}
    scores = row.pop("scores")
    row |= row.pop("costs")
    row["top1_kept"] = scores.get("top1_kept")
    row["top10_kept"] = scores.get("top10_rank")
    return json.dumps(row, separators=(",", ":")) + "\n"


def test_a_run_that_version_1_began_goes_on(whole, made, vlm, tmp_path, run, timeless):
    records, out = whole
    (tmp_path / "run.json").write_bytes((out / "run.json").read_bytes())
    lines = [version_1(record) for record in records[:6]]
    (tmp_path / "records-ft-l.jsonl").write_text("".join(lines), encoding="utf-8")
    found = run(vlm, made, tmp_path)
    assert [place(record) for record in found] == [place(record) for record in records]
    assert [record.costs for record in found[:6]] == [record.costs for record in records[:6]]
    assert [timeless(record) for record in found[6:]] == [
        timeless(record) for record in records[6:]
    ]
    assert summary(found)["rows"] == summary(records)["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 30, 400])
def test_half_a_line_and_missing_probes_are_made_up_for(
    whole, made, vlm, tmp_path, cut, run, timeless
):
    run(vlm, made, tmp_path)
    file = tmp_path / "records-ft-l.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:-cut])
    records = run(vlm, made, tmp_path)
    assert file.read_bytes().startswith(b"".join(lines[:5]))
    assert [timeless(record) for record in records] == [timeless(record) for record in whole[0]]


def test_a_finished_run_edits_nothing(whole, made, vlm, monkeypatch, run):
    records, out = whole
    content = (out / "records-ft-l.jsonl").read_bytes()
    monkeypatch.setattr(FTL, "edit", None)
    monkeypatch.setattr(type(vlm), "answers", None)
    assert run(vlm, made, out) == records
    assert (out / "records-ft-l.jsonl").read_bytes() == content


def test_only_windows_with_gaps_are_edited_again(made, vlm, tmp_path, monkeypatch, run):
    run(vlm, made, tmp_path)
    file = tmp_path / "records-ft-l.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:5] + lines[6:]), encoding="utf-8")
    edited = []
    edit = FTL.edit
    monkeypatch.setattr(
        FTL, "edit", lambda self, queries, patch=None: edited.append(queries) or edit(self, queries)
    )
    assert len(run(vlm, made, tmp_path)) == len(lines)
    assert edited == [[made[1].edits[0]]]


@pytest.mark.slow
def test_a_larger_plan_goes_on_from_a_smaller(whole, made, vlm, tmp_path, run):
    run(vlm, made, tmp_path, protocol=Windows((1,), 2))
    assert sorted(map(place, run(vlm, made, tmp_path))) == sorted(map(place, whole[0]))


# Refusals


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("model", "cases|model"),
        ("editor", "editor, editor_fingerprint, method"),
        ("config", "config, editor_fingerprint"),
        ("data", "another data"),
        ("seed", "another seed"),
        ("cases", "another cases"),
    ],
)
def test_a_folder_of_another_run_is_refused(whole, made, vlm, change, names, run):
    _, out = whole
    content = (out / "records-ft-l.jsonl").read_bytes()
    model = tiny("llava", seed=1) if change == "model" else vlm
    editors = {"editor": Firing(vlm), "config": FTL(vlm, FTLConfig()), "model": FTL(model, FT)}
    values = {"data": {"data": "x"}, "seed": {"seed": 8}}.get(change, {})
    with pytest.raises(Mismatch, match=names) as caught:
        run(model, made[:3] if change == "cases" else made, out, editors.get(change), **values)
    assert "\n" not in str(caught.value)
    assert (out / "records-ft-l.jsonl").read_bytes() == content


def test_records_without_their_run_are_refused(whole, made, vlm, tmp_path, run):
    (tmp_path / "records-ft-l.jsonl").write_bytes((whole[1] / "records-ft-l.jsonl").read_bytes())
    with pytest.raises(Mismatch, match=r"no run\.json"):
        run(vlm, made, tmp_path)


def test_a_folder_is_evaluated_in_once_at_a_time(whole, made, vlm, tmp_path, run, timeless):
    """Others, begun before or now, are refused at once, and change nothing; a stop makes way."""
    early = Evaluation(vlm, made, PLAN, data="drawn", seed=7)
    early.add(FTL(vlm, FT), tmp_path)
    refused = []

    def others(news):
        if news.done:
            about = (tmp_path / "run.json").read_bytes()
            with ThreadPoolExecutor() as pool:
                refused.extend(
                    [
                        pool.submit(early.run).exception(),
                        pool.submit(run, vlm, made, tmp_path).exception(),
                    ]
                )
            assert (tmp_path / "run.json").read_bytes() == about
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(vlm, made, tmp_path, watcher=others)
    assert all(isinstance(error, StorageError) for error in refused)
    for error in refused:
        assert re.fullmatch(
            r".* is in use by another process: try again when that has ended", str(error)
        )
    with ThreadPoolExecutor() as pool:
        records = pool.submit(run, vlm, made, tmp_path).result()
    assert [timeless(record) for record in records] == [timeless(record) for record in whole[0]]


@pytest.mark.parametrize(
    ("file", "names"), [("run.json", "damaged"), ("records-firing.jsonl", "line 1 is not a record")]
)
def test_damaged_files_are_named(made, vlm, tmp_path, file, names, run):
    run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    (tmp_path / file).write_text("[]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=names) as caught:
        run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "name", ["failed.json", "records-firing.part1.jsonl", "records-firing.jsonl"]
)
@pytest.mark.parametrize(
    "content", ["my notes", '{"stage": "prototype"}', "my notes\nin lines\nand half a"]
)
def test_an_unrelated_file_stays(made, vlm, tmp_path, name, content, run):
    run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    (tmp_path / name).write_text(content, encoding="utf-8")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()} | {"run.json": b""}
    with pytest.raises(BadInput, match=re.escape(name)) as caught:
        run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} | {
        "run.json": b""
    } == before


def test_a_failure_is_not_written_over_an_unrelated_file(tmp_path):
    (tmp_path / "failed.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadInput, match=r"failed\.json was not written by LiveEdit"):
        note_failure(tmp_path, "a", "loading", ValueError())
    assert (tmp_path / "failed.json").read_text(encoding="utf-8") == "[]"


def test_files_called_almost_as_a_part_are_unrelated(made, vlm, tmp_path, run):
    run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    copies = [tmp_path / f"records-firing.part{end}.jsonl" for end in ("1-copy", "ial", "01", "")]
    for copy in copies:
        copy.write_bytes((tmp_path / "records-firing.jsonl").read_bytes())
    run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    assert all(copy.exists() for copy in copies)


@pytest.mark.parametrize("label", ["a/b", "..\0", "../x", "a\nb"])
def test_a_label_that_no_file_can_have_in_its_name(made, vlm, tmp_path, label, run):
    with pytest.raises(BadInput, match="no editor can be called") as caught:
        run(vlm, made, tmp_path / "out", label=label)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**22, 0.5, True])
def test_a_seed_out_of_bounds_is_refused_at_once(made, vlm, tmp_path, seed, run):
    with pytest.raises(BadInput, match="seed is"):
        run(vlm, made, tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="seed is"):
        tiny("llava", seed=seed)


def test_files_that_an_editor_of_texts_has_marked_as_utf_8(made, vlm, tmp_path, run):
    records = run(vlm, made, tmp_path, Firing(vlm), Windows((1,), 1))
    for name in ("run.json", "records-firing.jsonl"):
        (tmp_path / name).write_bytes(codecs.BOM_UTF8 + (tmp_path / name).read_bytes())
    evaluate(vlm, Firing(vlm), made, Windows((1,), 1), data="drawn", seed=7, out=tmp_path)
    assert read_records(tmp_path).records == records


def test_too_few_cases_leave_no_folder(made, vlm, tmp_path, run):
    with pytest.raises(BadInput, match="4 cases"):
        run(vlm, made, tmp_path / "out", protocol=Windows((1, 10)))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_keeps_what_is_there(
    whole, made, vlm, tmp_path, monkeypatch, run, timeless
):
    written = []
    fsync = os.fsync

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 3:  # run.json and two cases
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        run(vlm, made, tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    lines = (tmp_path / "records-ft-l.jsonl").read_text(encoding="utf-8").splitlines()
    first = [
        *whole[0][:4],
        *whole[0][12:16],
    ]  # case 0 at one edit, then, in the same pool, at three
    assert [timeless(Record.from_json(line)) for line in lines[:8]] == [
        timeless(record) for record in first
    ]
    records = run(vlm, made, tmp_path)
    assert sorted(map(place, records)) == sorted(map(place, whole[0]))


def test_a_file_in_the_folders_place(made, vlm, tmp_path, run):
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="out"):
        run(vlm, made, tmp_path / "out")


# Readers of the records


def test_the_report_scores_records_without_the_model(whole, vlm):
    records, out = whole
    assert read_records(out).records == records
    rows = {
        (row["edits"], row["metric"], row["score"]): row["value"]
        for row in summary(records)["rows"]
    }
    right = [
        sum(map(int.__eq__, r.tokens_after, r.tokens_wanted)) / len(r.tokens_wanted)
        for r in records[:12:4]
    ]
    assert rows[1, "reliability", "token_accuracy"] == pytest.approx(sum(right) / 3, abs=1e-6)
    kept = [
        record.scores["top10_rank"]
        for record in records
        if record.edits == 1 and record.metric == "image_locality"
    ]
    assert rows[1, "image_locality", "top10_rank"] == pytest.approx(sum(kept) / 3, abs=1e-6)


def test_run_json_says_with_what(whole, vlm):
    about = json.loads((whole[1] / "run.json").read_text(encoding="utf-8"))
    assert (about["editor"], about["data"], about["seed"]) == ("ft-l", "drawn", 7)
    assert about["model"] == vlm.fingerprint
    assert about["config"]["steps"] == 25
    call = about["calls"][0]
    assert call["versions"]["torch"] == torch.__version__
    assert call["cpu_count"] == os.cpu_count()
    assert (call["protocol"], call["edits"], call["max_cases"], call["batch_size"]) == (
        "windows",
        [1, 3],
        3,
        32,
    )
    assert call["command"]
    assert call["model"] == vlm.model.config.name_or_path


def test_an_unreadable_image_is_named_before_anything_is_asked(vlm, cases, tmp_path, run):
    probe = Probe(
        "image_locality", Query("Which film is this?", "Rain", tmp_path / "lost.png"), "before"
    )
    *first, last = cases(6)
    last = replace(last, probes=(*last.probes, probe))
    with pytest.raises(BadInput, match=r"no image at .*lost\.png"):
        run(
            vlm,
            [*first, last],
            tmp_path / "run",
            protocol=Windows((6,)),
            watcher=lambda news: pytest.fail(news.stage),
        )


UNREAD = {
    "placeholder in a question": (
        Query("What <image> is it?", "Rain"),
        "the prompt or target holds the image placehold",
    ),
    "placeholder in an answer": (
        Query("What is it?", "Rain <image>"),
        "the prompt or target holds the image placehold",
    ),
    "long question": (
        Query("film " * 600),
        r"the model has room for 512 tokens, and the prompt takes \d+: shorten the",
    ),
    "long answer": (
        Query("Which?", "Rain " * 600),
        r"the prompt with its target takes \d+: shorten one of them",
    ),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_an_unreadable_text_is_named_before_anything_is_asked(vlm, cases, tmp_path, kind, run):
    query, said = UNREAD[kind]
    *first, last = cases(6)
    last = replace(last, probes=(*last.probes, Probe("text_locality", query, "before")))
    with pytest.raises(BadInput, match=rf"^case case:5, probe 4 \(text_locality\): .*{said}"):
        run(
            vlm,
            [*first, last],
            tmp_path / "run",
            protocol=Windows((6,)),
            watcher=lambda news: pytest.fail(news.stage),
        )


def test_an_unreadable_edit_is_named_too(vlm, cases, tmp_path, run):
    *first, last = cases(3)
    last = replace(last, edits=(*last.edits, Query("What <image> is it?", "Rain")))
    with pytest.raises(BadInput, match=r"^case case:2, edit 1: .*image placeholder"):
        run(
            vlm,
            [*first, last],
            tmp_path / "run",
            protocol=Windows((4,)),
            watcher=lambda news: pytest.fail(news.stage),
        )


def test_a_text_that_its_image_leaves_no_room_for_is_named_when_it_is_asked(
    vlm, cases, tmp_path, run
):
    [case] = cases(1)
    [ten, twenty] = (vlm.encode([Query("film " * count)]).spans[0].stop for count in (10, 20))
    full = Query(
        "film " * (10 + (vlm.room - ten) * 10 // (twenty - ten)), image=case.edits[0].image
    )
    case = replace(case, probes=(*case.probes, Probe("image_locality", full, "before")))
    with pytest.raises(
        BadInput,
        match=r"^case case:0, probe 4 \(image_locality\): the model has room for 512 tokens",
    ):
        run(vlm, [case], tmp_path / "run", protocol=Windows((1,)))


def test_a_query_without_text_may_be_asked(vlm, cases, tmp_path, run):
    [case] = cases(1)
    case = replace(
        case,
        probes=(*case.probes, Probe("image_alone", Query("", image=case.edits[0].image), "before")),
    )
    run(vlm, [case], tmp_path / "run", protocol=Windows((1,)))


class Breaking(FTL):
    """Fine-tuning that fails: while it edits the third query, or while it is asked."""

    def __init__(self, vlm, config, breaks):
        super().__init__(vlm, config)
        self.breaks = breaks

    def edit(self, queries, patch=None):
        if self.breaks == "editing" and patch is not None:
            raise RuntimeError("out of\nmemory")
        made = super().edit(queries, patch)
        if self.breaks == "probing":
            made.weights = lambda: {"no such weight": torch.zeros(1)}
        return made


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("breaks", "line"),
    [
        ("editing", r"broken failed \(editing 3 of 3\): RuntimeError: out of memory"),
        ("probing", r"broken failed \(probing after 1 edits, window 1\): "),
    ],
)
def test_one_editors_failure_leaves_the_others(vlm, made, whole, tmp_path, breaks, line, timeless):
    seen = []

    def evaluated(breaks):
        evaluation = Evaluation(vlm, made, PLAN, data="drawn", seed=7)
        evaluation.add(Breaking(vlm, FT, breaks), tmp_path / "broken", "broken")
        evaluation.add(FTL(vlm, FT), tmp_path / "ft", "ft-l")
        paths = evaluation.run(lambda news: seen.append(news))
        return evaluation, [read_records(path).records if path.exists() else [] for path in paths]

    evaluation, (broken, good) = evaluated(breaks)
    assert [*evaluation.errors] == ["broken"]
    assert list(map(timeless, good)) == list(map(timeless, whole[0]))
    assert len(broken) < len(good)
    [said] = [news.failure for news in seen if news.failure]
    assert re.match(line, said)
    assert [said] == failures(tmp_path) == list(read_records(tmp_path).failures)
    assert (
        "Traceback"
        in json.loads((tmp_path / "broken" / "failed.json").read_text(encoding="utf-8"))[
            "traceback"
        ]
    )
    write_report(tmp_path, tmp_path / "report")
    for name in ("table.md", "index.html"):
        assert "broken failed" in (tmp_path / "report" / name).read_text(encoding="utf-8")
    assert vlm.patches == []

    evaluation, (repaired, _) = evaluated("nowhere")
    assert not evaluation.errors
    assert failures(tmp_path) == []
    assert [record.answer_after for record in repaired] == [
        record.answer_after for record in whole[0]
    ]


def test_an_editor_that_is_evaluated_alone_fails_with_its_own_error(vlm, made, tmp_path, run):
    with pytest.raises(RuntimeError, match="out of"):
        run(vlm, made, tmp_path, Breaking(vlm, FT, "editing"))
