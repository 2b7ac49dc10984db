"""GRACE: the codebook against Algorithm 1 of the paper, what it replaces, what an edit learns, and
recorded numbers.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import fired_under
from helpers.recordings import Recording
from helpers.samples import EDITS
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.branch import Recorder
from liveedit.editors.grace import GRACE, SAME, GraceConfig, GracePatch, insert, label_of
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.feed_forward import feed_forward
from liveedit.models.tiny import tiny
from liveedit.types import Query

pytestmark = pytest.mark.families
FAR = GraceConfig(radius=0.1, steps=100, lr=0.1)


def algorithm_1(keys, labels, start):
    """The codebook as the paper writes it down: lists of (key, radius, label), one edit after
    another.
    """
    book = []
    for key, label in zip(keys, labels, strict=True):
        distances = [float((key - entry["key"]).norm()) for entry in book]
        near = min(range(len(book)), key=distances.__getitem__, default=None)
        if near is None or distances[near] > start + book[near]["radius"]:
            book.append({"key": key, "radius": start, "label": label})
        elif book[near]["label"] == label:
            book[near]["radius"] = max(book[near]["radius"], distances[near])
        else:
            book[near]["radius"] = distances[near] / 2
            book.append({"key": key, "radius": distances[near] / 2, "label": label})
    return book


@pytest.mark.parametrize("seed", range(4))
def test_the_codebook_is_that_of_algorithm_1(seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(60, 3, generator=generator)
    labels = torch.randint(3, (60,), generator=generator)
    radii = torch.empty(0)
    merged = 0
    for number in range(len(keys)):
        radii, into = insert(keys[: number + 1], labels, radii, 0.5)
        merged += into is not None
    book = algorithm_1(keys, labels.tolist(), 0.5)
    assert 0 < merged < 60
    paper = torch.tensor([entry["radius"] for entry in book])
    torch.testing.assert_close(
        radii[radii >= 0], paper, rtol=0, atol=SAME * float(keys.norm(dim=1).max())
    )
    assert torch.equal(keys[radii >= 0], torch.stack([entry["key"] for entry in book]))


def test_an_edit_of_the_same_input_takes_the_radius_over():
    keys = torch.tensor([[1.0, 1.0], [1.0, 1.9], [1.0, 1.0]])
    radii = torch.empty(0)
    for number in range(3):
        radii, _ = insert(keys[: number + 1], torch.tensor([7, 7, 8]), radii, 0.5)
    assert radii.tolist() == pytest.approx([-1.0, -1.0, 0.9], abs=1e-3)


def test_of_two_edits_of_one_input_the_later_fires(vlm):
    editor = GRACE(vlm, FAR)
    query = EDITS[0]
    patch = editor.edit([query, Query(query.prompt, "Brazil", query.image)])
    batch = vlm.encode([query])
    with vlm.patched(patch):
        vlm.logits(batch)
    assert batch.fired_by(patch) == [[(1, 1.0)]]
    assert editor.select(patch, [0]).radii.tolist() == pytest.approx([FAR.radius])


def test_an_edit_that_expands_an_entry_shares_its_value(vlm):
    editor = GRACE(vlm, GraceConfig(radius=1e4, steps=2))
    near = Query("What is this country with this flag?", "Japan", EDITS[0].image)
    patch = editor.edit([EDITS[0], near])
    assert torch.equal(patch.bank["value"][0], patch.bank["value"][1])
    assert float(patch.radii[1]) < 0
    with vlm.patched(editor.select(patch, [1])):
        alone = vlm.logits(vlm.encode([near]))
    with vlm.patched(patch):
        assert torch.equal(vlm.logits(vlm.encode([near])), alone)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("target", ["Japan", "a place far away", "Brazil or Peru"])
def test_an_edit_that_expands_an_entry_is_within_it_in_any_batch(vlm, target, side):
    near = Query("What is this country with this flag?", "Japan", EDITS[0].image)
    keys, _ = GRACE(vlm, GraceConfig(steps=0)).learn([EDITS[0], near])
    editor = GRACE(vlm, GraceConfig(radius=0.75 * float((keys[0] - keys[1]).norm()), steps=0))
    patch = editor.edit([EDITS[0], near])
    assert float(patch.radii[0]) > editor.config.radius
    for others in ([], EDITS[1:], [Query("Who?", "nobody", EDITS[1].image)]):
        batch = vlm.encode([Query(near.prompt, target, near.image), *others], padding_side=side)
        with vlm.patched(patch):
            vlm.logits(batch)
        assert batch.fired_by(patch)[0] == [(0, 1.0)]


def test_within_the_radius_the_value_replaces_the_state_of_the_last_prompt_token(vlm):
    editor = GRACE(vlm, FAR)
    patch = editor.edit(EDITS)
    place = editor.network
    batch = vlm.encode([EDITS[2], EDITS[0], Query("Who?", "nobody", EDITS[1].image)])
    spots = batch.last_prompt_tokens()
    plain, record = Recorder(place.writes), Recorder(place.writes)
    with vlm.patched(plain):
        vlm.hidden(batch, place.layer)
    with vlm.patched(record), vlm.patched(patch):
        vlm.hidden(batch, place.layer)
    assert [[entry for entry, _ in row] for row in batch.fired_by(patch)] == [[2], [0], []]
    for row, entry in ((0, 2), (1, 0)):
        torch.testing.assert_close(
            record.seen[place.writes][row, spots[row]], patch.bank["value"][entry]
        )
    changed = (record.seen[place.writes] != plain.seen[place.writes]).any(-1)
    assert changed.nonzero().tolist() == [[0, int(spots[0])], [1, int(spots[1])]]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("query", EDITS, ids=lambda query: query.target)
def test_an_edit_takes_and_learning_together_is_learning_alone(vlm, query):
    editor = GRACE(vlm, FAR)
    batch = vlm.encode([query])
    first = batch.labels[batch.labels >= 0][:1]

    def loss():
        """Of the first answer token, which the value is next to."""
        with torch.no_grad():
            return float(F.cross_entropy(vlm.logits(batch)[batch.answer_positions()][:1], first))

    before = loss()
    with vlm.patched(editor.edit([query])):
        assert loss() < 0.5 * before
    together = editor.edit(EDITS).bank["value"][EDITS.index(query)]
    torch.testing.assert_close(
        editor.edit([query]).bank["value"][0], together, rtol=1e-3, atol=1e-3
    )


def test_labels_are_of_the_text():
    assert label_of(" Japan ") == label_of("Japan") != label_of("japan")


def test_the_codebook_replaces_the_output_of_any_feed_forward_network_but_the_first(vlm):
    assert GRACE(vlm).network == feed_forward(vlm, 2)
    with pytest.raises(BadInput, match="layers 0 to 3"):
        GRACE(vlm, GraceConfig(layer=4))
    with pytest.raises(BadInput, match="layers 0 to 3"):
        GRACE(vlm, GraceConfig(layer=0))


def test_a_layer_without_a_feed_forward_network_is_refused():
    vlm = tiny("llava")
    del vlm.layers[2].mlp
    with pytest.raises(UnsupportedModel, match="feed-forward"):
        GRACE(vlm, GraceConfig(layer=2))
    assert GRACE(vlm).network.layer == 1


@pytest.fixture(scope="module")
def recording():
    return Recording("grace")


@pytest.fixture(scope="module")
def editor(recording):
    """The recorded editor."""
    return GRACE(recording.vlm, GraceConfig(**recording.config))


@pytest.fixture(scope="module")
def stages(recording, editor):
    """The patch after each of the recorded edits, made one by one."""
    patches: list[GracePatch] = []
    for query in recording.queries(recording.facts["edits"]):
        patches.append(editor.edit([query], patches[-1] if patches else None))
    return patches


def operation(before, after):
    """The operation that an edit did on the radii of a codebook."""
    if len(after) == len(before):
        return "expand"
    return "split" if bool((after[:-1] < before).any()) else "add"


def expanded(facts):
    """The number of each recorded edit that expands an entry, and the entry."""
    steps = enumerate(zip(facts["operations"], facts["chosen"], strict=True), 1)
    return {number: entry for number, (name, entry) in steps if name == "expand"}


def test_parity_of_the_codebook(recording, stages):
    facts = recording.facts
    tensors = recording.tensors
    radii = [torch.empty(0), *(patch.radii[patch.radii >= 0] for patch in stages)]
    assert [operation(*pair) for pair in pairwise(radii)] == facts["operations"]
    assert set(facts["operations"]) == {"add", "expand", "split"}
    rounding = SAME * float(stages[0].bank["key"].norm())
    for number, ours in enumerate(radii[1:], 1):
        more = ours - tensors[f"radii_{number}"]  # an expansion by the rounding, a split by 1e-5
        assert -1e-5 <= float(more.min()) <= float(more.max()) <= rounding + 1e-5
    keys = stages[-1].bank["key"][stages[-1].radii >= 0]
    torch.testing.assert_close(keys, tensors["keys"], rtol=0, atol=1e-5)


def test_parity_of_the_values(recording, editor, stages):
    """Those that an entry has when it is added: the authors' code changes them in an expansion."""
    facts = recording.facts
    tensors = recording.tensors
    later = expanded(facts)
    made = [number for number in range(1, len(stages) + 1) if number not in later]
    values = torch.stack([tensors[f"values_{number}"][-1] for number in made])
    places = [number - 1 for number in made]
    torch.testing.assert_close(stages[-1].bank["value"][places], values, rtol=1e-4, atol=1e-3)
    together = editor.edit(recording.queries(facts["edits"]))
    torch.testing.assert_close(together.bank["value"][places], values, rtol=1e-4, atol=1e-3)
    for number, entry in later.items():
        assert not torch.allclose(
            tensors[f"values_{number}"][entry], tensors[f"values_{number - 1}"][entry], atol=1.0
        )


def test_parity_of_the_logits(recording, editor, stages):
    """Every query after every edit, with the recorded values, and where no entry was expanded with
    this package's.
    """
    facts = recording.facts
    tensors = recording.tensors
    later = expanded(facts)
    answered = set()
    for index, query in enumerate(recording.queries(facts["queries"])):
        batch = editor.vlm.encode([query])
        base = tensors[f"q{index}.base_logits"]
        size = base.shape[1]
        torch.testing.assert_close(editor.vlm.logits(batch)[:, -size:], base, rtol=0, atol=1e-5)
        for number, ours in enumerate(stages, 1):
            theirs = ours.bank["value"].clone()
            theirs[ours.radii >= 0] = tensors[f"values_{number}"]
            given = GracePatch(editor, Bank({**ours.bank.tensors(), "value": theirs}), ours.radii)
            expected = tensors[f"q{index}.edited_logits_{number}"]
            with editor.vlm.patched(given):
                torch.testing.assert_close(
                    editor.vlm.logits(batch)[:, -size:], expected, rtol=0, atol=1e-5
                )
            entries = (ours.radii >= 0).nonzero()[:, 0].tolist()
            fired = [entries.index(entry) for entry, _ in batch.fired_by(given)[0]]
            assert bool(fired) == (not torch.equal(expected, base))
            answered.update(fired)
            if not any(entry in fired and at <= number for at, entry in later.items()):
                with editor.vlm.patched(ours):
                    torch.testing.assert_close(
                        editor.vlm.logits(batch)[:, -size:], expected, rtol=0, atol=1e-4
                    )
    assert answered == set(range(len(tensors["keys"]))), "every entry answers some query"


def test_where_the_authors_code_does_otherwise(recording, editor):
    """One target after prompts of two lengths, which theirs splits and this package merges; one
    input edited again.
    """
    start = editor.config.radius
    apart = recording.facts["apart"]
    length = editor.edit(recording.queries(apart["length"]["edits"]))
    d = float((length.bank["key"][0] - length.bank["key"][1]).norm())
    assert start < d < 2 * start
    assert apart["length"]["radii"] == pytest.approx([d / 2 - 1e-5, d / 2], abs=4e-6)
    assert length.radii.tolist() == pytest.approx([d, -1.0], abs=2e-3)
    again = editor.edit(recording.queries(apart["again"]["edits"]))
    assert apart["again"]["radii"] == pytest.approx([-1e-5, 0.0], abs=1e-5)
    assert again.radii.tolist() == [-1.0, start]


def test_an_edit_merged_into_another_still_fires_when_that_one_is_superseded(vlm):
    editor = GRACE(vlm, GraceConfig(radius=1e3))
    first = EDITS[0]
    merged = Query("Which country is it?", "Japan", EDITS[1].image)
    patch = editor.edit([first, merged])
    assert patch.radii[1] < 0
    patch = editor.edit([replace(first, target="Chad")], patch)
    queries = [merged, first]
    assert fired_under(patch, vlm, queries) == [[(1, 1.0)], [(2, 1.0)]]
    former = editor.select(patch, [0, 1])
    assert fired_under(former, vlm, queries) == [[(0, 1.0)], [(0, 1.0)]]
