"""Streams and gaps on a tiny model, against loops over single edits and single queries."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from liveedit.editors.base import Editor
from liveedit.editors.ft import FTL, FTLConfig
from liveedit.evaluate import Gap, Stream
from liveedit.models.patch import Patch

FT = FTLConfig(lr=0.1, steps=5)
PROTOCOLS = {"stream": Stream((1, 2, 4)), "gap": Gap((1, 3), 2)}


class Counted(Patch):
    """Holds the targets that were edited, and says that the expert of each fired."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def bind(self, batch):
        batch.fired[self] = [[(expert, 1.0) for expert in range(len(self))]] * len(batch)
        return {}


class Counting(Editor):
    @dataclass(frozen=True)
    class Config:
        """Settings of the editor.

        Arguments:
            size: Not used.
        """

        size: int = 1

    name, paper = "counting", ""
    calls = ()

    def edit(self, queries, patch=None):
        self.calls += ((len(patch or ()), len(queries)),)
        return Counted([*(patch.targets if patch else []), *(query.target for query in queries)])


@pytest.fixture(scope="session")
def run(evaluated):
    """Evaluates fine-tuning, or another editor, and gives its records."""

    def run(vlm, cases, protocol, out, editor=None, **options):
        return evaluated(vlm, cases, out, editor or FTL(vlm, FT), protocol, **options)

    return run


@pytest.fixture(scope="module")
def made(cases):
    return cases(6)


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def whole(request, vlm, made, tmp_path_factory, run):
    """A protocol and the records of an uninterrupted run."""
    protocol = PROTOCOLS[request.param]
    return protocol, run(vlm, made, protocol, tmp_path_factory.mktemp(request.param))


def slow_plan(name):
    """(edits made, case) of each question, written from the protocols' definitions."""
    if name == "stream":
        return [(1, 0), (2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)]
    pairs = product(range(1, 6), range(2))
    return [(made, case) for made, case in pairs if made - 1 - case in (1, 3)]


def test_every_case_is_asked_when_it_is_due(whole):
    protocol, records = whole
    asked = [(record.edits, int(record.case[-1]), record.later) for record in records[::4]]
    assert asked == [(made, case, made - 1 - case) for made, case in slow_plan(protocol.name)]
    assert {record.protocol for record in records} == {protocol.name}
    assert [record.probe for record in records] == [0, 1, 2, 3] * len(asked)


@pytest.mark.slow
def test_against_one_edit_and_one_query_at_a_time(whole, made, vlm):
    _, records = whole
    editor = FTL(vlm, FT)
    patch = None
    held = 0
    for record in sorted(records, key=lambda record: record.edits):
        while held < record.edits:
            patch = editor.edit([made[held].edits[0]], patch)
            held += 1
        probe = made[int(record.case[-1])].probes[record.probe]
        forced = replace(
            probe.query,
            target=probe.query.target or vlm.generate([probe.query], max_new_tokens=16)[0],
        )
        batch = vlm.encode([forced])
        start, stop = batch.spans[0].answer
        before = vlm.logits(batch)[0]
        with vlm.patched(patch):
            assert record.answer_after == vlm.generate([probe.query], max_new_tokens=16)[0]
            after = vlm.logits(batch)[0]
        assert record.tokens_after == tuple(int(after[t - 1].argmax()) for t in range(start, stop))
        kept = [
            float((before.topk(n).indices == after.topk(n).indices).double().mean())
            for n in (1, 10)
        ]
        found = [record.scores.get(name) for name in ("top1_kept", "top10_rank")]
        assert found == (kept if probe.wanted == "before" else [None, None])


@pytest.mark.parametrize(
    ("name", "calls"),
    [("stream", ((0, 1), (1, 1), (2, 2))), ("gap", ((0, 2), (2, 1), (3, 1), (4, 1)))],
)
def test_the_pool_grows_and_is_never_made_anew(name, calls, vlm, made, tmp_path, run):
    editor = Counting(vlm)
    records = run(vlm, made, PROTOCOLS[name], tmp_path, editor)
    assert editor.calls == calls
    assert all(record.experts_fired == record.edits for record in records)
    for record in records:
        assert [firing.expert for firing in record.fired if firing.own] in (
            [int(record.case[-1])],
            [],
        )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("probes", [4, 8, 12])
def test_a_killed_run_goes_on(whole, vlm, made, tmp_path, probes, run, timeless, stop_at):
    protocol, records = whole

    with pytest.raises(KeyboardInterrupt):
        run(vlm, made, protocol, tmp_path, watcher=stop_at(probes))
    assert [timeless(r) for r in run(vlm, made, protocol, tmp_path)] == [
        timeless(record) for record in records
    ]


def test_no_more_is_edited_than_what_is_missing_asks_for(vlm, made, tmp_path, run):
    records = run(vlm, made, PROTOCOLS["stream"], tmp_path, Counting(vlm))
    [file] = tmp_path.rglob("*.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == len(records)
    file.write_text(
        "".join(line for line, record in zip(lines, records, strict=True) if record.edits != 2)
    )
    editor = Counting(vlm)
    assert len(run(vlm, made, PROTOCOLS["stream"], tmp_path, editor)) == len(records)
    assert editor.calls == ((0, 1), (1, 1))


def test_protocols_share_a_folder(vlm, made, tmp_path, run):
    several = [run(vlm, made, protocol, tmp_path, Counting(vlm)) for protocol in PROTOCOLS.values()]
    assert len(several[1]) == len(several[0]) + 4 * len(slow_plan("gap"))
    assert run(vlm, made, PROTOCOLS["stream"], tmp_path, Counting(vlm)) == several[1]
