"""GRACE: the codebook against Algorithm 1 of the paper, what it replaces, and what an edit learns."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from liveedit.editors.feedforward import Recorder, feed_forward, last_prompt_tokens
from liveedit.editors.grace import GRACE, GraceConfig, insert, label_of
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.types import Query

EDITS = [
    Query("What is the country with this flag?", "Japan", Image.new("RGB", (32, 32), "red")),
    Query("Which film is this?", "Casablanca", Image.new("RGB", (32, 32), "blue")),
    Query("who sang the song", "Elvis Presley"),
]
FAR = GraceConfig(radius=0.1, steps=100, lr=0.1)


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def vlm(request):
    return tiny(request.param)


def algorithm_1(keys, labels, start):
    """The codebook as the paper writes it down: lists of (key, radius, label), one edit after another."""
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
    keys, labels = torch.randn(60, 3, generator=generator), torch.randint(3, (60,), generator=generator)
    radii, merged = torch.empty(0), 0
    for number in range(len(keys)):
        radii, into = insert(keys[: number + 1], labels, radii, 0.5)
        merged += into is not None
    book = algorithm_1(keys, labels.tolist(), 0.5)
    assert 0 < merged < 60
    assert [round(float(r), 4) for r in radii[radii >= 0]] == [round(entry["radius"], 4) for entry in book]
    assert torch.equal(keys[radii >= 0], torch.stack([entry["key"] for entry in book]))


def test_of_two_edits_of_one_input_the_later_holds(vlm):
    editor = GRACE(vlm, FAR)
    query = EDITS[0]
    patch = editor.edit([query, Query(query.prompt, "Brazil", query.image)])
    with vlm.patched(patch):
        vlm.logits(vlm.encode([query]))
    assert patch.fired() == [[(1, 1.0)]]
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


def test_within_the_radius_the_value_stands_at_the_last_prompt_token(vlm):
    editor = GRACE(vlm, FAR)
    patch, place = editor.edit(EDITS), editor.place
    batch = vlm.encode([EDITS[2], EDITS[0], Query("Who?", "nobody", EDITS[1].image)])
    spots, record = last_prompt_tokens(batch), Recorder(place.writes)
    plain = Recorder(place.writes)
    with vlm.patched(plain):
        vlm.hidden(batch, place.layer)
    with vlm.patched(record), vlm.patched(patch):
        vlm.hidden(batch, place.layer)
    assert [[entry for entry, _ in row] for row in patch.fired()] == [[2], [0], []]
    for row, entry in ((0, 2), (1, 0)):
        torch.testing.assert_close(record.seen[place.writes][row, spots[row]], patch.bank["value"][entry])
    changed = (record.seen[place.writes] != plain.seen[place.writes]).any(-1)
    assert changed.nonzero().tolist() == [[0, int(spots[0])], [1, int(spots[1])]]


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
    torch.testing.assert_close(editor.edit([query]).bank["value"][0], together, rtol=1e-3, atol=1e-3)


def test_labels_are_of_the_text():
    assert label_of(" Japan ") == label_of("Japan") != label_of("japan")


def test_where_it_can_be_put(vlm):
    assert feed_forward(vlm, None).layer == 2
    with pytest.raises(BadInput, match="layers 0 to 3"):
        GRACE(vlm, GraceConfig(layer=4))
    with pytest.raises(BadInput, match="layers 0 to 3"):
        GRACE(vlm, GraceConfig(layer=0))
    strange = tiny("llava")
    strange.layers[2].mlp = torch.nn.ModuleList()
    del strange.layers[2].mlp
    with pytest.raises(UnsupportedModel, match="feed-forward"):
        GRACE(strange)
