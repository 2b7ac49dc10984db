"""Batches that take turns answer as each does alone, in every family, each with its own patch."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from threading import Barrier, Thread, get_ident

import pytest
import torch
from transformers import CONFIG_MAPPING

from helpers.serving import FLAG, question
from liveedit.models import FAMILIES, checked
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.reference import middle
from liveedit.models.conformance.sample_patches import Routed
from liveedit.models.patch import Patch, output_embedding
from liveedit.models.tiny import tiny
from liveedit.serve.generation import Asked, encoded, generate
from liveedit.serve.turns import Turns

TINY = {"blip-2": "blip2"}
"""Names of tiny models that differ from the model type."""
QUICK = ("llava", "qwen2_vl", "blip-2", "gemma3n")
PASSED = [name for name, record in checked().items() if record.reason is None]
QUESTIONS = [replace(query, target="") for query in QUERIES]
TOKENS = (7, 4, 9)
LONG = {"model": "emblem:base", "temperature": 2, "seed": 4, "max_tokens": 200}
"""Options with which the embedded model gives a long answer."""
EDITED = LONG | {"model": "emblem"}


def marks(name):
    if name in QUICK:
        return []
    slow = [pytest.mark.slow]
    return slow if name in FAMILIES else [*slow, pytest.mark.product]


class Nothing(Patch):
    """A patch that does nothing."""

    def __len__(self):
        return 0


class Listener:
    """Keeps an answer."""

    cancelled = False

    def __init__(self, query, tokens):
        self.asked = Asked(query, tokens)
        self.text = ""

    def put(self, event):
        """Take the next part."""
        self.text += event


def in_turns(vlm, batches):
    """The texts and logits of batches of (patch, queries, tokens) that take turns; their order."""
    turns = Turns()
    begin = Barrier(len(batches))
    order = []
    logits = defaultdict(list)
    askers = [[Listener(query, tokens) for query in queries] for _, queries, tokens in batches]

    def answer(number):
        patch = batches[number][0]

        def step():
            order.append(number)
            turns.pass_on(len(askers[number]))

        begin.wait()
        asked = [each.asked for each in askers[number]]
        with turns.taken(), encoded(vlm, patch, asked, 5000) as batch:
            generate(vlm, patch, batch, askers[number], lambda *_: None, step)

    threads = [Thread(target=answer, args=(number,)) for number in range(len(batches))]
    head = output_embedding(vlm.model)
    hook = head.register_forward_hook(lambda *call: logits[get_ident()].append(call[2][:, -1]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    found = [torch.cat(logits[thread.ident]) for thread in threads]
    return [[each.text for each in row] for row in askers], found, order


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, id=name, marks=marks(name)) for name in sorted({*FAMILIES, *PASSED})],
)
def test_batches_in_turns_answer_as_alone(name):
    if name not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such type")
    vlm = tiny(TINY.get(name, name))
    patches = [Routed(middle(vlm)), None, Routed(middle(vlm), scale=-3.0)]
    parts = [QUESTIONS[:1], QUESTIONS[1:], QUESTIONS[2:4]]
    batches = list(zip(patches, parts, TOKENS, strict=True))
    texts, logits, order = in_turns(vlm, batches)
    changes = sum(one != other for one, other in pairwise(order))
    assert changes >= len(batches)
    for number, batch in enumerate(batches):
        [alone], [its], _ = in_turns(vlm, [batch])
        assert texts[number] == alone
        assert torch.equal(logits[number], its)
        with vlm.unpatched(), vlm.patched(batch[0] or Nothing()):
            assert alone == vlm.generate(batch[1], max_new_tokens=batch[2])


def test_a_short_answer_does_not_wait_for_a_long_one(client, url, served):
    messages = question(FLAG, url)
    with client.chat.completions.create(**LONG, messages=messages, stream=True) as stream:
        next(iter(stream))
        short = client.chat.completions.create(model="emblem", messages=messages)
        assert short.choices[0].message.content == "Japan"
        rest = [chunk for chunk in stream if chunk.choices]
    assert len(rest) > 100
    assert rest[-1].choices[0].finish_reason == "length"


def test_an_answer_ends_before_a_longer_one_of_its_batch():
    vlm = tiny("llava")
    askers = [Listener(QUESTIONS[0], tokens) for tokens in (3, 6, 2)]
    steps = []
    ends = {}

    def end(number, ended):
        ends[number] = len(steps)
        assert ended.tokens == askers[number].asked.tokens
        assert ended.finish == "length"

    with encoded(vlm, None, [each.asked for each in askers], 5000) as batch:
        generate(vlm, None, batch, askers, end, lambda: steps.append(None))
    assert ends == {0: 2, 1: 5, 2: 1}


def test_an_edit_acts_on_later_requests_while_earlier_ones_keep_theirs(client, http, url, served):
    messages = question(FLAG, url)
    whole = client.chat.completions.create(**EDITED, messages=messages).choices[0].message.content
    with client.chat.completions.create(**EDITED, messages=messages, stream=True) as stream:
        first = next(iter(stream))
        body = {"image": url, "question": FLAG, "answer": "Atlantis"}
        assert http.post("/v1/edits", json=body).status_code == 201
        later = client.chat.completions.create(model="emblem", messages=messages)
        assert later.choices[0].message.content == "Atlantis"
        chunks = [first, *(chunk for chunk in stream if chunk.choices)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].system_fingerprint != later.system_fingerprint
