"""The aligned generator and the losses against hard negatives, against slow loops."""

import math

import pytest
import torch

from liveedit.editors.aligned import AlignedGenerator
from liveedit.editors.contrast import OWN, contrast
from liveedit.editors.liveedit import LiveEdit, LiveEditConfig
from liveedit.errors import BadInput
from liveedit.models.tiny import tiny
from liveedit.types import Query

D, DM = 32, 16


@pytest.fixture(scope="module")
def vlm():
    return tiny("llava")


@pytest.fixture(scope="module")
def edits(vlm):
    from PIL import Image

    image = Image.new("RGB", (24, 24), "red")
    return [Query("What is it?", "a long answer", image), Query("Which film is this?", "Rain", image)]


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return AlignedGenerator(D, DM, heads=2, rank=24, scale=5.0)


def test_rows_are_made_for_each_answer_token_alone(vlm, edits, generator):
    words = vlm.model.get_output_embeddings().weight
    together = vlm.hidden(vlm.encode(edits), 2)
    U, V = generator(together, words)
    for row, edit in enumerate(edits):
        hidden = vlm.hidden(vlm.encode([edit]), 2)
        U1, V1 = generator(hidden, words)
        torch.testing.assert_close(U[row], U1[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(V[row], V1[0], rtol=1e-4, atol=1e-5)
        start, stop = hidden.spans[0].answer
        assert (U1[0, : stop - start].abs().sum(-1) > 0).all()
        assert not U1[0, stop - start :].any()
        assert not V1[0, stop - start :].any()


def test_equations_by_hand(vlm, edits, generator):
    """U_j and V_j of one edit, token by token, from the formulas in the file's head."""
    words = vlm.model.get_output_embeddings().weight
    hidden = vlm.hidden(vlm.encode(edits[:1]), 2)
    U, V = generator(hidden, words)
    [span] = hidden.spans
    h = generator.state_norm(hidden.hidden[0])
    signal = h[span.image[0] : span.answer[1]]
    for j, place in enumerate(range(*span.answer)):
        s, a = h[place - 1], h[place]
        w = generator.word_norm(words[hidden.labels[0, place]])
        z = generator.before(s) + generator.there(a) + generator.word(w) + generator.place.weight[j]
        attention = generator.context
        q, k, v = attention.query(z), attention.key(signal), attention.value(signal)
        heads = []
        for n in range(attention.heads):
            part = slice(n * DM // attention.heads, (n + 1) * DM // attention.heads)
            share = (k[:, part] @ q[part] / math.sqrt(DM // attention.heads)).softmax(0)
            heads.append(share @ v[:, part])
        z = z + torch.cat(heads)
        torch.testing.assert_close(U[0, j], generator.key(z) + generator.carry_state(s), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(V[0, j], generator.value(z) + generator.carry_word(w), rtol=1e-4, atol=1e-4)


def test_an_answer_longer_than_the_rank_is_refused(vlm, edits):
    editor = LiveEdit(vlm, LiveEditConfig(module_dim=DM, heads=2, rank=2, layer=2, generator="aligned"))
    with pytest.raises(BadInput, match="at most 2"):
        editor.edit(edits[:1])


def test_contrast_is_the_sum_over_all_edits():
    generator = torch.Generator().manual_seed(0)
    similarity, threshold = torch.randn(5, 3, generator=generator), torch.randn(5, 1, generator=generator)
    own = torch.tensor([0, 2, -1, 1, -1])
    expected = 0.0
    for q in range(5):
        for e in range(3):
            m = float(similarity[q, e] - threshold[q])
            expected += OWN * math.log1p(math.exp(-m)) if own[q] == e else math.log1p(math.exp(m))
    assert float(contrast(similarity, threshold, own)) == pytest.approx(expected / 5, rel=1e-5)


def test_contrast_wants_the_own_edit_in_and_the_others_out():
    similarity = torch.zeros(2, 2, requires_grad=True)
    contrast(similarity, 0.0, torch.tensor([0, -1])).backward()
    assert similarity.grad.sign().tolist() == [[-1.0, 1.0], [1.0, 1.0]]
