"""How a case is asked about: batches, what the vision tower is spared, times; and in which order
records stand.
"""

import time
from dataclasses import dataclass, replace

import pytest
import torch

from liveedit.editors.base import Editor
from liveedit.evaluate import Stream, asking, evaluate
from liveedit.evaluate.asking import Asker, tensors
from liveedit.evaluate.journal import Journal
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
        Asker(vlm, 4, size).ask(cases(1)[0], patch)
        assert max(patch.rows) == most


def test_the_seconds_of_answers_are_shares_of_what_they_took_together(vlm, cases):
    asker, [case] = Asker(vlm, 16, 8), cases(1)
    asker.before(case)
    began = time.perf_counter()
    shown = asker.ask(case, Patch())
    assert 0 < sum(after.seconds for _, after in shown) < time.perf_counter() - began


def test_the_tower_looks_once_for_all_patches(vlm, cases, looks):
    asker, made = Asker(vlm, 4, 8), cases(2)
    first = [asker.ask(case, Patch()) for case in made]
    count = len(looks)
    assert count > 0
    again = [asker.ask(case, Sizes()) for case in made]
    assert len(looks) == count
    for before, after in zip(first, again, strict=True):
        assert [pair[1].tokens for pair in before] == [pair[1].tokens for pair in after]


def test_what_does_not_fit_is_looked_at_again(vlm, cases, looks, monkeypatch):
    sizes, made = [], cases(2)
    tower = vlm.model.get_submodule(vlm.tower_path)
    handle = tower.register_forward_hook(
        lambda _module, _args, output: sizes.append(sum(tensors(output).values()))
    )
    Asker(vlm, 4, 8).before(made[0])
    handle.remove()
    looked = {}
    for room in (0, max(sizes), 10 * sum(sizes)):
        monkeypatch.setattr(asking, "SEEN_BYTES", room)
        asker = Asker(vlm, 4, 8)
        for case in made:
            asker.before(case)
        looks.clear()
        for case in made:
            asker.ask(case, Patch())
        looked[room] = len(looks)
    none, one, all = looked.values()
    assert (one, all) == (none - 1, 0)


def test_a_patch_that_changes_the_tower_sees_for_itself_and_leaves_nothing(vlm, cases):
    asker, [case] = Asker(vlm, 4, 8), cases(1)
    asker.before(case)
    blinded = Blinded(vlm)
    shown = asker.ask(case, blinded)
    with vlm.patched(blinded), torch.no_grad():
        for probe, (before, after) in zip(case.probes, shown, strict=True):
            query = replace(probe.query, target=before.forced)
            batch = vlm.encode([query])
            assert after.answer == vlm.generate([probe.query], max_new_tokens=4)[0]
            predicted = vlm.logits(batch).argmax(-1)[batch.answer_positions()]
            assert after.tokens == tuple(predicted.tolist())
    kept = [after.top10_kept for _, after in shown]
    assert kept[2] < 1.0, "about an image"
    assert kept[3] == 1.0, "about none"
    assert [after.top10_kept for _, after in asker.ask(case, Patch())][2:] == [1.0, 1.0]


# Records


def record(case, probe=0, edits=1, window=0):
    return Record(
        editor="e", data="d", edits=edits, window=window, seed=0, case=case, probe=probe, metric="reliability",
        wanted="target", prompt="?", target="x", image="", note="", answer_before="", answer_after="",
        tokens_wanted=(), tokens_after=(), top10_kept=None,
    )  # fmt: skip


def place(found):
    return found.edits, found.window, found.case, found.probe


def test_what_several_processes_write_stands_in_the_order_of_the_protocol(tmp_path):
    """Cases are in the order in which they were given, whatever their names."""
    cases = [Case(id, (), ()) for id in ("b", "case:10", "case:9", "a")]
    wanted = [
        (n, w, case.id, probe)
        for n, w in ((1, 0), (1, 1), (10, 0))
        for case in cases
        for probe in (0, 1)
    ]
    for process, some in enumerate((wanted[::3], wanted[1::3], wanted[2::3])):
        journal = Journal(tmp_path, {"editor": "e"}, {}, cases, process)
        journal.append(
            [record(case, probe, edits, window) for edits, window, case, probe in reversed(some)]
        )
    Journal(tmp_path, {"editor": "e"}, {}, cases)
    lines = (tmp_path / "records-e.jsonl").read_text(encoding="utf-8").splitlines()
    assert [place(Record.from_json(line)) for line in lines] == wanted
    assert sorted(file.name for file in tmp_path.iterdir()) == ["records-e.jsonl", "run.json"]


class Slow(Editor):
    """Takes ``TAKES`` seconds for each edit."""

    @dataclass(frozen=True)
    class Config:
        size: int = 1

    name, paper = "slow", ""

    def edit(self, queries, patch=None):
        time.sleep(TAKES * len(queries))
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


TAKES = 0.02


def test_the_cost_of_an_edit_is_that_of_the_edits_made_so_far(vlm, cases, tmp_path):
    path = evaluate(
        vlm, Slow(vlm), cases(8), Stream((1, 2, 8), ask=1), data="drawn", seed=0, out=tmp_path
    )
    found = [Record.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {r.edits for r in found} == {1, 2, 8}
    for made in found:
        assert made.edit_seconds >= TAKES
        assert made.edit_bytes == 10
