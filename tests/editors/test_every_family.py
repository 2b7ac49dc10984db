"""Every editor on every family: an edit takes, is generated as predicted, and leaves no trace.

The whole product is slow and runs by ``make test-all``; by default each editor runs on one family,
which differs in what the editor depends on.
"""

from itertools import product

import pytest
import torch
from transformers import CONFIG_MAPPING

from helpers.measures import Snapshot, target_loss
from helpers.samples import QUESTION, picture
from helpers.tiny_settings import only_prompts, small_settings, trainable
from liveedit.editors import EDITORS, new_editor
from liveedit.editors.common.bank import Bank
from liveedit.errors import UnsupportedModel
from liveedit.models import checked
from liveedit.models.conformance.reference import cut, greedy
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query

LEARNING = {
    **{name: {"lr": 1e-2} for name in ("ft-l", "ft-m", "lora")},
    "grace": {"steps": 60},
    "horen": {"lr": 0.1, "fit_steps": 100, "threshold": 0.5},
    "ke": {"hidden": 16, "condition": 64, "layers": 2, "max_scale": 10.0},
    "lemoe": {"steps": 40},
    "liveedit": {"module_dim": 32, "rank": 64, "scale": 1.0, "margin": -1e3},
    "locft-bf": {"lr": 1e-2, "epochs": 25},
    "mend": {"rank": 16, "layers": 2, "alpha": 1e-2},
    "recipe": {"tokens": 64},
    "t-patcher": {"lr": 3e-2, "steps": 50},
    "ultraedit": {"lr": 1e-2, "layers": 2},
    "wise": {"steps": 40},
}
"""Settings, besides those for tiny models, at which an edit takes; other methods need none."""

OTHERWISE = {
    ("liveedit", "gemma3n"): {"layer": 1},
    ("ultraedit", "git"): {"lr": 1e-1},
    ("ultraedit", "nemotron_h_omni"): {"lr": 1e-1, "layers": 1},
}
"""Settings of a pair: at layer 2 no unit of an expert is ever active where the answer begins; a
larger step; the one layer below the last that has a matrix for every token.
"""

STARTS = 2
ROUNDS = 20
STEPS = 10
RATE = 3e-3
"""The training of an editor with networks: so many starts, each of at most so many rounds of steps.

It ends with the first round after which its edits take.
"""
HIGHER = 0.8
IN_A_ROW = 3
"""Edits take if the tokens of each one's target are that much likelier than before, in nats on
average. Those by networks are made anew after each round, and have to take in so many rounds in a
row: chance may raise a target once, but not each time."""
AT_ONCE = 0.3
"""The same for methods without networks, which take a few steps on the edit itself and are tried
once.
"""
FAINT = {("ft-m", "granite_docling"): 0.1}
"""Pairs that reach less: an image is one token here, and the connector changes nothing else."""

TYPES = [name for name, record in checked().items() if record.reason is None]
STACKED = ("inkling2", "inkling_mm_model", "qwen3_omni_moe_thinker", "qwen3_vl_moe")
"""An MLP of experts in one tensor: no layer whose inputs and gradients could be read, none to copy.
"""
MATRICES = ("horen", "ke", "locft-bf", "mend", "ultraedit", "wise")
"""Methods that need a layer's matrices."""
READING = ("gemma3n", "gemma4", "qwen4_exp")
"""Layers read the tokens again, and a vector has none."""
UNCONNECTED = ("apertus1p5", "chameleon", "emu3", "inkling_mm_model")
"""Images become words of the vocabulary, or no layer connects vision tower and decoder."""
OTHER_WIDTH = ("gemma3n", "glm5_next", "qwen4_exp")
"""Hidden states are not as wide as words."""
REFUSED = {
    **dict.fromkeys(product(MATRICES, STACKED), "linear layers for every token"),
    **dict.fromkeys(product(("recipe",), READING), "layers? of .* reads? the tokens"),
    **dict.fromkeys(product(("pinpoint",), OTHER_WIDTH), "states as wide as word embeddings"),
    **dict.fromkeys(product(("ft-m",), UNCONNECTED), "between vision tower and text decoder"),
}
"""Pairs that cannot be, and the reason given. Nothing else is refused."""

HARD = {
    **dict.fromkeys(("ft-l", "lemoe", "wise"), "llama4"),
    **dict.fromkeys(("grace", "horen", "mend", "t-patcher"), "lfm2_vl"),
    **dict.fromkeys(("recipe", "ike", "lte", "scr"), "gemma3"),
    **dict.fromkeys(("ft-m", "lora"), "ovis2"),
}
"""A family that differs in what a method depends on."""
QUICK = [(name, HARD.get(name, "qwen3_vl")) for name in EDITORS]


def case(number, target, colour, other):
    """A case of one edit with a probe of each kind; ``other`` colours the other image."""
    edit = Query(QUESTION, target, picture(colour))
    probes = (
        Probe("text_generality", Query("Which country has this flag?", target, edit.image)),
        Probe("image_generality", Query(edit.prompt, target, picture(other))),
        Probe("image_locality", Query("Which film is this?", "Rain", picture(other)), "before"),
        Probe("text_locality", Query("Who sang the song?", "nobody"), "before"),
    )
    return Case(f"case-{number}", (edit,), probes)


CASES = [case(0, "Japan", "red", "crimson"), case(1, "Chad", "blue", "navy")]
(EDIT,) = CASES[0].edits


@pytest.fixture(scope="module")
def vlm(request):
    """A tiny model of a type that transformers knows, after a first call.

    In its first call transformers puts hooks of its own on a vision tower.
    """
    name = request.param
    if name not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such type")
    made = tiny({"blip-2": "blip2"}.get(name, name))
    made.logits(made.encode([EDIT]))
    return made


def by_family(pairs):
    """Pairs of editor and family as parameters, those of a family together in one process."""
    found = []
    for name, family in sorted(pairs, key=lambda pair: pair[1]):
        mark = pytest.mark.xdist_group(family)
        found.append(pytest.param(name, family, id=f"{name}-{family}", marks=mark))
    return found


def pair_settings(vlm, name, sentence_encoder):
    """The settings at which an edit of a method takes on a tiny model."""
    settings = small_settings(name, sentence_encoder) | LEARNING.get(name, {})
    return settings | OTHERWISE.get((name, vlm.model.config.model_type), {})


def editors(vlm, name, settings):
    """A fresh editor, or one after each round of its training; then another of another start.

    From some starts no unit of so small a network ever moves.
    """
    for start in range(STARTS):
        editor = new_editor(vlm, name, settings, seed=start)
        for _ in training(editor):
            yield editor


def training(editor):
    """Train the editor a round at a time, if it has networks, and stop after each."""
    if not hasattr(editor, "networks"):
        yield
        return
    examples = editor.prepare(CASES)
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=RATE)
    for step in range(ROUNDS * STEPS):
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % STEPS == 0:
            yield


def gains(vlm, edit):
    """The rise of each case's mean log-likelihood, in nats, by the edit ``edit(query)`` of it."""
    found = []
    for case in CASES:
        [query] = case.edits
        before = target_loss(vlm, [query])
        with vlm.patched(edit(query)):
            found.append(before - target_loss(vlm, [query]))
    return found


def least_gain(editor):
    """The smallest of the rises by the editor's own edits."""
    return min(gains(editor.vlm, lambda query: editor.edit([query])))


def effective_editor(vlm, name, settings):
    """An editor whose edits take; fails where none does."""
    if trainable(name):
        needed = IN_A_ROW
        least = HIGHER
    else:
        needed = 1
        least = FAINT.get((name, vlm.model.config.model_type), AT_ONCE)
    in_a_row = 0
    for editor in editors(vlm, name, settings):
        gain = least_gain(editor)
        in_a_row = in_a_row + 1 if gain > least else 0
        if in_a_row == needed:
            return editor
    return pytest.fail(f"the last edit raised its target by {gain} nats")


def in_context_editor(vlm, name, settings):
    """An editor that only changes the prompt: a random model's answers change, but not how."""
    editor = new_editor(vlm, name, settings)
    assert any(gains(vlm, lambda query: editor.edit([query])))
    return editor


def check_pair(vlm, name, sentence_encoder):
    """An edit takes, is generated as it is predicted, and leaves no trace; or is refused."""
    settings = pair_settings(vlm, name, sentence_encoder)
    if reason := REFUSED.get((name, vlm.model.config.model_type)):
        with pytest.raises(UnsupportedModel, match=reason):
            new_editor(vlm, name, settings)
        return
    plain = vlm.logits(vlm.encode([EDIT]))
    before = Snapshot(vlm.model)
    make = in_context_editor if only_prompts(name) else effective_editor
    patch = make(vlm, name, settings).edit([EDIT])
    with vlm.patched(patch), torch.no_grad():
        assert vlm.generate([EDIT], max_new_tokens=4) == [cut(vlm, greedy(vlm, EDIT, 4))]
    assert torch.equal(vlm.logits(vlm.encode([EDIT])), plain)
    before.assert_unchanged()


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("name", "vlm"), by_family(QUICK), indirect=["vlm"])
def test_an_edit_takes_and_leaves_no_trace(vlm, name, sentence_encoder):
    check_pair(vlm, name, sentence_encoder)


@pytest.mark.slow
@pytest.mark.product
@pytest.mark.parametrize(("name", "vlm"), by_family(product(EDITORS, TYPES)), indirect=["vlm"])
def test_every_pair(vlm, name, sentence_encoder):
    check_pair(vlm, name, sentence_encoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["liveedit", "pinpoint"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("vlm", ["llava"], indirect=True)
def test_random_experts_do_not_count_as_edits_that_take(name, strength, vlm):
    """Not even experts that always fire, of new factors each time: chance passes no test above."""
    editor = new_editor(vlm, name, small_settings(name) | {"margin": -1e3})
    generator = torch.Generator().manual_seed(0)

    def edit(query):
        patch = editor.edit([query])
        rows = patch.bank.tensors()
        for part in ("expert_in", "expert_out"):
            rows[part] = strength * torch.randn(rows[part].shape, generator=generator)
        return type(patch)(editor, Bank(rows))

    takes = [min(gains(vlm, edit)) > HIGHER for _ in range(STARTS * ROUNDS)]
    assert not any(all(takes[at : at + IN_A_ROW]) for at in range(len(takes) - IN_A_ROW + 1))
