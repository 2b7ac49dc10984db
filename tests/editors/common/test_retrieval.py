"""Memory-based editors: edits of the same fact, the best edit, and fresh answers in training."""

from itertools import product

import pytest
import torch

from helpers.samples import BLUE, QUESTION, RED
from helpers.tiny_settings import SMALL, TRAINABLE
from liveedit.editors import editor_class, new_editor
from liveedit.editors.common.examples import same_fact
from liveedit.editors.common.hard_negatives import NEVER
from liveedit.editors.common.retrieval import Match, RetrievalEditor, best_match, with_answers
from liveedit.models.batch import IGNORED
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query

NAMES = [name for name in TRAINABLE if issubclass(editor_class(name), RetrievalEditor)]
EDIT = Query(QUESTION, "Japan", RED, "red")
REWORDED = Query("Name this country.", "Japan", RED, "red")
UNRELATED = Query("Who?", "nobody", BLUE, "blue")
CASES = [
    Case(
        "0",
        (EDIT,),
        (Probe("text_generality", REWORDED), Probe("image_locality", UNRELATED, "before")),
    ),
    Case(
        "1",
        (Query("Who?", "Ann", BLUE, "blue"),),
        (Probe("text_generality", Query("Who is it?", "Bob", BLUE)),),
    ),
]


@pytest.fixture(
    scope="module",
    params=product(NAMES, ("llava", "blip2", "qwen2_vl")),
    ids="-".join,
)
def editor(request):
    name, family = request.param
    return new_editor(tiny(family), name, SMALL[name] | {"fresh": 1.0, "eos": True})


def test_the_best_edit_above_the_threshold():
    score = torch.tensor([[0.1, 0.9, 0.3], [0.2, 0.1, 0.4], [NEVER, NEVER, NEVER]])
    match = best_match(score, 0.5)
    assert match.rows == [0]
    assert match.edits == [1]
    assert [[edit for edit, _ in row] for row in match.fired] == [[1], [], []]
    assert best_match(torch.empty(2, 0), 0.5) == Match([], [], [[], []])


def test_an_edit_of_the_same_fact_is_neither_own_nor_unrelated(editor):
    examples = editor.prepare(CASES)
    names = [("reliability", 0), ("reliability", 1), ("image_locality", 0)]
    assert same_fact(examples, names).tolist() == [[False, False], [False, False], [False, True]]


def test_replaced_answers_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-3, 6, (5, 7), generator=generator)
    fresh = torch.randint(6, 9, (5, 7), generator=generator)
    fresh[2] = IGNORED
    expected = labels.tolist()
    for row, tokens in enumerate(expected):
        k = 0
        for at, token in enumerate(tokens):
            if token >= 0 and token != 4:
                tokens[at] = token if row == 2 else int(fresh[row, k])
                k += 1
    assert with_answers(labels, fresh, 4).tolist() == expected


def test_fresh_answers_replace_the_target_in_the_edit_and_in_its_probes(editor):
    examples = editor.prepare(CASES)
    names = [("reliability", 0), ("text_generality", 0), ("reliability", 1), ("text_generality", 1)]
    names += [("image_locality", 0)] * ("image_locality" in examples[0].inputs)
    end, special = editor.vlm.tokenizer.eos_token_id, editor.vlm.tokenizer.all_special_ids
    written = editor.answering(examples, names, torch.Generator().manual_seed(0))
    answers = [row[row >= 0].tolist() for row in written.answers]
    assert answers[0] != examples[0].answer.tolist()
    assert len(answers[0]) == len(examples[0].answer)
    assert answers[0][-1] == end
    assert not set(answers[0][:-1]) & set(special)
    assert answers[1] == examples[1].answer.tolist(), (
        "a row wants another answer than the edit: nothing is exchanged"
    )
    labels = [row[row >= 0].tolist() for row in written.rows.labels]
    assert labels[:3] == [answers[0], answers[0], answers[1]]
    assert written.texts[0][written.texts[0] >= 0].tolist()[-len(answers[0]) :] == answers[0]
    for at, (kind, j) in enumerate(names):
        before = examples[j].inputs[kind]
        after = written.rows
        span = before.spans[0]
        old = examples[j].inputs[kind].labels
        expected = before.hidden.clone()
        if at < 2:
            expected += (
                editor.words(after.labels[at : at + 1, : old.shape[1]]) - editor.words(old)
            ) * (old >= 0)[..., None]
        torch.testing.assert_close(after.hidden[at : at + 1, span.start : span.stop], expected)


def test_without_a_share_no_answer_is_exchanged(editor):
    plain = new_editor(editor.vlm, editor.name, SMALL[editor.name] | {"eos": True})
    examples = plain.prepare(CASES)
    names = [("reliability", 0), ("reliability", 1)]
    written = plain.answering(examples, names, torch.Generator())
    assert [row[row >= 0].tolist() for row in written.answers] == [
        example.answer.tolist() for example in examples
    ]
    real = examples[0].inputs["reliability"].hidden
    assert torch.equal(written.rows.hidden[:1, : real.shape[1]], real)
