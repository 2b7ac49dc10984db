"""Batches that take turns answer as each does alone, in every family, each with its own patch."""

from collections import defaultdict
from dataclasses import replace
from threading import Barrier, Thread, get_ident

import pytest
import torch
from transformers import CONFIG_MAPPING

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
            turns.pass_on()

        begin.wait()
        with turns.taken(), encoded(vlm, patch, [each.asked for each in askers[number]]) as batch:
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
    assert order != sorted(order)
    for number, batch in enumerate(batches):
        [alone], [its], _ = in_turns(vlm, [batch])
        assert texts[number] == alone
        assert torch.equal(logits[number], its)
        with vlm.unpatched(), vlm.patched(batch[0] or Nothing()):
            assert alone == vlm.generate(batch[1], max_new_tokens=batch[2])
