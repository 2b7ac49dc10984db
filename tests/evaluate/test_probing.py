"""Probing a case: batches, the cache of the vision tower, times, memory, the order of records."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
import torch

from liveedit.editors.base import Editor
from liveedit.evaluate import Stream, Windows, probing
from liveedit.evaluate.journal import Journal
from liveedit.evaluate.probing import Prober, tensor_bytes
from liveedit.models.patch import Patch
from liveedit.types import Case, Record


class Sizes(Patch):
    """Keeps how many rows go through together."""

    def __init__(self):
        self.rows = []

    def bind(self, batch):
        self.rows.append(len(batch))
        return {}


class Blinded(Patch):
    """Turns the weights of the vision tower round."""

    def __init__(self, vlm):
        tower = vlm.model.get_submodule(vlm.tower_path)
        self.turned = {
            f"{vlm.tower_path}.{name}": -value for name, value in tower.named_parameters()
        }

    def weights(self):
        return self.turned


@pytest.fixture
def looks(vlm):
    """How often the vision tower has run, and not only put out again what it had."""
    seen = []
    inner = next(vlm.model.get_submodule(vlm.tower_path).children())
    handle = inner.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def test_no_more_rows_go_through_together_than_asked_for(vlm, cases):
    for size, most in ((3, 3), (8, 4)):
        patch = Sizes()
        Prober(vlm, 4, size).probe(cases(1)[0], patch)
        assert max(patch.rows) == most


@pytest.mark.parametrize(("batch_size", "seconds"), [(8, 1.5), (4, 1.5), (2, 3.0), (1, 6.0)])
def test_the_time_of_an_answer_is_its_share_of_the_batch(
    vlm, cases, clock, monkeypatch, batch_size, seconds
):
    """The model takes six seconds for any batch."""
    answers = type(vlm).answers

    def slow(self, queries, **options):
        clock.move(6.0)
        return answers(self, queries, **options)

    monkeypatch.setattr(type(vlm), "answers", slow)
    responses = Prober(vlm, 4, batch_size).probe(cases(1)[0], Patch(), timed=True)
    assert [after.seconds for _, after in responses] == [seconds] * 4


class Shift(Patch):
    """Adds a constant to the output of the second layer."""

    def __init__(self, size):
        self.size = size

    def bind(self, batch):
        return {"layers.1": lambda states: states + self.size}


@pytest.fixture
def generated(embedded_vlm, monkeypatch):
    """The prompts of the answers that the embedded model has generated."""
    asked = []
    answers = type(embedded_vlm).answers

    def noting(self, queries, **options):
        asked.extend(query.prompt for query in queries)
        return answers(self, queries, **options)

    monkeypatch.setattr(type(embedded_vlm), "answers", noting)
    return asked


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3, 3.0])
def test_answers_are_those_that_are_generated(vlm, cases, size, timed):
    prober = Prober(vlm, 4, 8)
    changed = set()
    for case in cases(6):
        shown = prober.probe(case, Shift(size), timed)
        with vlm.patched(Shift(size)):
            wanted = vlm.generate([probe.query for probe in case.probes], max_new_tokens=4)
        assert [after.answer for _, after in shown] == wanted
        assert all((after.seconds is not None) == timed for _, after in shown)
        changed |= {before.answer != after.answer for before, after in shown}
    assert changed == ({False} if size < 0.1 else {True, False} if size < 1.0 else {True})


@pytest.mark.parametrize(("size", "stays"), [(0.0, 4), (1e-6, 1), (3.0, 0)])
def test_answers_that_stay_as_they_were_are_not_generated(
    embedded_vlm, cases, generated, size, stays
):
    """One of four probes forces the answer of the unedited model, the others a target."""
    prober = Prober(embedded_vlm, 16, 8)
    [case] = cases(1)
    prober.before(case)
    generated.clear()
    prober.probe(case, Shift(size))
    assert generated == [probe.query.prompt for probe in case.probes[: 4 - stays]]


def test_an_answer_of_the_target_is_not_generated(embedded_vlm, cases, generated):
    """The target is what the unedited model answers, too, with logits that differ."""
    [case] = cases(1)
    [answer] = embedded_vlm.generate(case.edits)
    query = replace(case.edits[0], target=answer)
    told = replace(case, probes=(replace(case.probes[0], query=query),))
    prober = Prober(embedded_vlm, 16, 8)
    prober.before(told)
    generated.clear()
    [(_, after)] = prober.probe(told, Shift(1e-6))
    assert after.answer == answer
    assert generated == []


def test_the_tower_looks_once_for_all_patches(vlm, cases, looks):
    prober = Prober(vlm, 4, 8)
    made = cases(2)
    first = [prober.probe(case, Patch()) for case in made]
    count = len(looks)
    assert count > 0
    again = [prober.probe(case, Sizes()) for case in made]
    assert len(looks) == count
    for before, after in zip(first, again, strict=True):
        assert [pair[1].tokens for pair in before] == [pair[1].tokens for pair in after]


def test_what_does_not_fit_is_looked_at_again(vlm, cases, looks, monkeypatch):
    sizes = []
    made = cases(2)
    tower = vlm.model.get_submodule(vlm.tower_path)
    handle = tower.register_forward_hook(
        lambda _module, _args, output: sizes.append(sum(tensor_bytes(output).values()))
    )
    Prober(vlm, 4, 8).before(made[0])
    handle.remove()
    looked = {}
    for room in (0, max(sizes), 10 * sum(sizes)):
        monkeypatch.setattr(probing, "CACHE_BYTES", room)
        prober = Prober(vlm, 4, 8)
        for case in made:
            prober.before(case)
        looks.clear()
        for case in made:
            prober.probe(case, Patch())
        looked[room] = len(looks)
    none, one, all = looked.values()
    assert (one, all) == (none - 1, 0)


def test_a_patch_that_changes_the_tower_sees_for_itself_and_leaves_nothing(vlm, cases):
    prober = Prober(vlm, 4, 8)
    [case] = cases(1)
    prober.before(case)
    blinded = Blinded(vlm)
    shown = prober.probe(case, blinded)
    with vlm.patched(blinded), torch.no_grad():
        for probe, (before, after) in zip(case.probes, shown, strict=True):
            query = replace(probe.query, target=before.forced)
            batch = vlm.encode([query])
            assert after.answer == vlm.generate([probe.query], max_new_tokens=4)[0]
            predicted = vlm.logits(batch).argmax(-1)[batch.answer_positions()]
            assert after.tokens == tuple(predicted.tolist())
    kept = [after.scores.get("top10_rank") for _, after in shown]
    assert kept[2] < 1.0, "about an image"
    assert kept[3] == 1.0, "about none"
    assert [after.scores.get("top10_rank") for _, after in prober.probe(case, Patch())][2:] == [
        1.0,
        1.0,
    ]


# Records


def record(case, probe=0, edits=1, window=0):
    return Record(
        editor="e", data="d", edits=edits, window=window, seed=0, case=case, probe=probe,
        metric="reliability",
        wanted="target", prompt="?", target="x", image="", note="",
        answer_before="", answer_after="",
        tokens_wanted=(), tokens_after=(),
    )  # fmt: skip


def place(found):
    return found.edits, found.window, found.case, found.probe


def test_what_several_processes_write_stands_in_the_order_of_the_protocol(tmp_path, read):
    """Cases are in the order in which they were given, whatever their names."""
    cases = [Case(id, (), ()) for id in ("b", "case:10", "case:9", "a")]
    points = ((1, 0), (1, 1), (10, 0))
    ids = [case.id for case in cases]
    wanted = [(*point, id, probe) for point, id, probe in product(points, ids, (0, 1))]
    for process, some in enumerate((wanted[::3], wanted[1::3], wanted[2::3])):
        journal = Journal(tmp_path, {"editor": "e"}, {}, cases, process)
        journal.append(
            [record(case, probe, edits, window) for edits, window, case, probe in reversed(some)]
        )
    Journal(tmp_path, {"editor": "e"}, {}, cases)
    assert [place(found) for found in read(tmp_path / "records-e.jsonl")] == wanted
    assert sorted(file.name for file in tmp_path.iterdir()) == ["records-e.jsonl", "run.json"]


class Slow(Editor):
    """Takes two seconds for each edit."""

    @dataclass(frozen=True)
    class Config:
        """Settings of the editor.

        Arguments:
            size: Not used.
        """

        size: int = 1

    name, paper = "slow", ""

    def edit(self, queries, patch=None):
        self.clock.move(2.0 * len(queries))
        return Held(len(queries) + len(patch or ()))


class Held(Patch):
    """So many edits, of 10 bytes each."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    @property
    def nbytes(self):
        return 10 * self.count


def test_the_cost_of_an_edit_is_that_of_the_edits_made_so_far(
    vlm, cases, tmp_path, clock, evaluated
):
    editor = Slow(vlm)
    editor.clock = clock
    found = evaluated(vlm, cases(8), tmp_path, editor, Stream((1, 2, 8), ask=1))
    assert {record.edits for record in found} == {1, 2, 8}
    for record in found:
        assert record.costs == {
            "edit_seconds": 2.0,
            "edit_bytes": 10,
            "query_seconds": 0.0,
            "peak_bytes": record.costs["peak_bytes"],
        }


class Hungry(Editor):
    """Allocates 128 MiB for a moment."""

    @dataclass(frozen=True)
    class Config:
        """Settings of the editor.

        Arguments:
            floats: Number of floats that it allocates.
        """

        floats: int = 32 * 2**20

    name, paper = "hungry", ""

    def edit(self, queries, patch=None):
        torch.ones(self.config.floats)
        return Held(len(queries))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone")
def test_the_peak_of_memory_is_that_of_the_own_edits(vlm, cases, tmp_path, evaluated):
    peaks = []
    for floats in (32 * 2**20, 1):
        editor = Hungry(vlm, Hungry.Config(floats))
        records = evaluated(vlm, cases(2), tmp_path / str(floats), editor, Windows((1,), 2))
        peaks.append({record.costs["peak_bytes"] > 96 * 2**20 for record in records})
    assert peaks == [{True}, {False}]
