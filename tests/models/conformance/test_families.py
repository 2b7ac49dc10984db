"""Every family keeps the contract. A new family is tested by being registered.

By default a registered family runs one check in ``SHARE``, and a type without a family, which the
generic family reads, one in ``GENERIC_SHARE``; each type runs others than its neighbours. ``make
test-all`` runs the rest.
"""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from transformers import CONFIG_MAPPING

from liveedit.errors import BadInput
from liveedit.models import FAMILIES, REFUSED, checked, family, known_types
from liveedit.models.conformance.assertions import Broken, close
from liveedit.models.conformance.contract import CHECKS, examine
from liveedit.models.conformance.probe import STRUCTURE
from liveedit.models.conformance.queries import QUERIES, WIDE
from liveedit.models.conformance.reference import cut, greedy, middle
from liveedit.models.conformance.sample_patches import Routed
from liveedit.models.tiny import tiny
from liveedit.models.tiny.type_overrides import OVERRIDES
from liveedit.models.tiny.without_timm import without_timm
from liveedit.models.vlm import VLM
from liveedit.types import Query

SHARE = 16
GENERIC_SHARE = 128
TINY = {"blip-2": "blip2"}
"""Names of tiny models that differ from the model type."""
PASSED = [name for name, record in checked().items() if record.reason is None]
GENERIC = [name for name in PASSED if name not in FAMILIES]
TYPES = [*FAMILIES, *GENERIC]
PAPERS = [name for name in FAMILIES if family(name).vlkeb_mark is not None]
"""The backbones of the papers: VLKEB defines a prompt for them."""


def share(model_type, number):
    """The marks of test ``number`` of a type: those of a type in one process, and slow or not."""
    together = pytest.mark.xdist_group(model_type)
    number += TYPES.index(model_type)
    if model_type in FAMILIES:
        return [together, pytest.mark.slow] if number % SHARE else [together]
    marks = [together, pytest.mark.slow, pytest.mark.product]
    return marks if number % GENERIC_SHARE else [together]


def types(number):
    """The types as parameters of test ``number``."""
    return [pytest.param(name, id=name, marks=share(name, number)) for name in TYPES]


def contract():
    """Every type with every check, as parameters; the checks of a type follow one another.

    Types without a family have been through the checks of ``STRUCTURE`` once they are built.
    """
    return [
        pytest.param(model_type, name, id=f"{model_type}-{name}", marks=share(model_type, number))
        for model_type, (number, name) in product(TYPES, enumerate(CHECKS))
        if model_type in FAMILIES or name not in STRUCTURE
    ]


@cache
def built(model_type):
    """The tiny model of a type in its own prompt format, and in raw prompts if that is another."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such type")
    vlm = tiny(TINY.get(model_type, model_type))
    # transformers puts hooks of its own on a vision tower when it first runs.
    vlm.logits(vlm.encode(QUERIES))
    if vlm.prompt_format == "raw":
        return [vlm]
    return [vlm, VLM(vlm.model, vlm.processor, "raw")]


@pytest.fixture
def forms(request):
    """A type's model in each of its prompt formats."""
    return built(request.param)


@pytest.fixture(params=[*PAPERS, *GENERIC[:1]])
def own(request):
    """A backbone of the papers, or one model that the generic family reads."""
    vlm, *_ = built(request.param)
    return vlm


@pytest.mark.parametrize(("forms", "name"), contract(), indirect=["forms"])
def test_contract(forms, name):
    for vlm in forms:
        try:
            CHECKS[name](vlm)
        except Broken as error:
            error.add_note(f"in the prompt format {vlm.prompt_format}")
            raise


@pytest.mark.parametrize("forms", types(len(CHECKS)), indirect=True)
def test_a_check_that_does_not_hold_says_what(forms, monkeypatch):
    for vlm in forms:
        monkeypatch.setattr(vlm, "image_tokens", torch.zeros_like)
        with pytest.raises(Broken, match="no image token"):
            CHECKS["image_span_holds_the_image"](vlm)
        (finding,) = examine(vlm, ["image_span_holds_the_image"])
        assert finding.reason == "an image has no image token"
        assert finding.proves.startswith("Every image token")


@pytest.mark.parametrize("forms", types(len(CHECKS) + 1), indirect=True)
def test_a_saved_model_is_read_back_as_its_family(forms, tmp_path):
    for vlm in forms:
        if getattr(vlm.processor.image_processor, "backend", "") == "torchvision":
            pytest.skip("a checkpoint of it is read with torchvision")
        if "asks" in OVERRIDES.get(vlm.model.config.model_type, {}):
            pytest.skip("its processor reads smaller images than a saved one")
        videos = getattr(vlm.processor, "video_processor", None)
        if getattr(videos, "font", "") is None:
            pytest.skip("its processor is saved with a font for videos, which the tiny one lacks")
        vlm.model.save_pretrained(tmp_path)
        vlm.processor.save_pretrained(tmp_path)
        with without_timm():
            loaded = VLM.load(tmp_path, prompt_format=vlm.prompt_format)
        assert type(loaded) is type(vlm)
        assert loaded.fingerprint == vlm.fingerprint
        assert torch.equal(loaded.logits(loaded.encode(QUERIES)), vlm.logits(vlm.encode(QUERIES)))


def test_every_family_is_run_and_passed():
    found = checked()
    assert set(FAMILIES) <= set(found)
    assert set(found) >= set(known_types())
    assert all(found[name].reason is None for name in FAMILIES)
    assert all(found[name].reason == reason for name, reason in REFUSED.items())
    assert len(PASSED) >= 85


# The same for all families, tested on the backbones of the papers and one more


def test_one_blank_stands_between_a_raw_prompt_and_its_target(own):
    raw = built(own.model.config.model_type)[-1]
    assert raw.prompt_format == "raw"
    batch = raw.encode(QUERIES)
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        text = raw.tokenizer.decode(batch.inputs["input_ids"][row, span.start : span.stop])
        assert text.endswith(f"{query.prompt.strip()} {query.target.strip()}")


@pytest.mark.parametrize(
    ("model_type", "between"),
    [
        ("qwen2_vl", "<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen_vl", "<|im_end|>\n<|im_start|>assistant\n"),
        ("mplug_owl2", " ASSISTANT: "),
        ("minigpt4", "###Assistant: "),
    ],
)
def test_a_chat_template_begins_the_answer(model_type, between):
    chat, _ = built(model_type)
    assert chat.prompt_format == "chat"
    batch = chat.encode(QUERIES)
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        text = chat.tokenizer.decode(batch.inputs["input_ids"][row, span.start : span.stop])
        assert text.endswith(f"{query.prompt.strip()}{between}{query.target.strip()}")


def test_an_image_may_be_a_path(own, tmp_path):
    WIDE.save(tmp_path / "flag.png")
    shown, read = (
        own.encode([replace(QUERIES[0], image=image)]) for image in (WIDE, tmp_path / "flag.png")
    )
    for name, value in shown.inputs.items():
        assert torch.equal(value, read.inputs[name])


def test_no_query_is_refused(own):
    with pytest.raises(BadInput, match="no query"):
        own.encode([])
    assert own.generate([]) == []


def test_a_broken_image_is_refused(own, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"broken\.png is not an image"):
        own.encode([Query("What?", image=tmp_path / "broken.png")])


def test_generation_ignores_the_checkpoints_sampling(own, monkeypatch):
    expected = own.generate(QUERIES[:2], max_new_tokens=6)
    for model in {own.model, getattr(own.model, "language_model", own.model)}:
        if hasattr(model, "generation_config"):
            monkeypatch.setattr(model.generation_config, "repetition_penalty", 5.0)
            monkeypatch.setattr(model.generation_config, "do_sample", True)
    assert own.generate(QUERIES[:2], max_new_tokens=6) == expected


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    "names",
    [
        ("layers.1.mlp", "layers.1.fc2"),
        ("layers.0.self_attn",),
        ("norm", "final_layer_norm"),
    ],
    ids=["feed-forward", "attention", "final norm"],
)
def test_generation_sees_a_patch_within_a_layer(own, names):
    modules = dict(own.decoder.named_modules())
    site = next(name for name in names if name in modules)
    plain = own.generate(QUERIES, max_new_tokens=6)
    patch = Routed(0, site=site)
    with own.patched(patch):
        expected = [cut(own, greedy(own, query, 6)) for query in QUERIES]
        patch.seen.clear()
        assert own.generate(QUERIES, max_new_tokens=6) == expected
        assert {shape[1] for shape in patch.seen[1:]} == {1}, (
            "decoding goes token by token, with a cache"
        )
        assert own.generate(QUERIES, max_new_tokens=6, batch_size=1) == expected
    assert expected != plain
    assert own.generate(QUERIES, max_new_tokens=6) == plain


def another(vlm, seed=0):
    """A model of the same type, built anew."""
    model_type = vlm.model.config.model_type
    return tiny(TINY.get(model_type, model_type), seed)


def test_fingerprint_tells_models_apart(own):
    assert another(own).fingerprint == own.fingerprint
    nudged = another(own)
    next(nudged.layers[3].parameters()).data.view(-1)[5] += 1e-3
    assert nudged.fingerprint != own.fingerprint
    assert another(own, seed=1).fingerprint != own.fingerprint


@pytest.mark.slow
def test_half_precision(own):
    half = VLM(another(own).model.bfloat16(), own.processor, own.prompt_format)
    batch = half.encode(QUERIES)
    assert half.logits(batch).dtype == torch.bfloat16
    resumed = half.resume(1, half.hidden(batch, 1))
    close(resumed, half.logits(batch), "resume and logits in bfloat16")
    with half.patched(Routed(middle(half))):
        assert len(half.generate(QUERIES, max_new_tokens=2)) == len(QUERIES)
