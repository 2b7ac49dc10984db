"""What every family must do, whatever its prompt, its image inputs and its positions look like."""

from dataclasses import replace

import pytest
import torch
from transformers import CONFIG_MAPPING

from liveedit.errors import BadInput
from liveedit.models import FAMILIES, REFUSED, checked, known_types
from liveedit.models.conformance.assertions import Broken, close
from liveedit.models.conformance.contract import CHECKS, examine
from liveedit.models.conformance.queries import QUERIES, WIDE
from liveedit.models.conformance.reference import cut, greedy, middle
from liveedit.models.conformance.sample_patches import Routed
from liveedit.models.tiny import tiny
from liveedit.models.tiny.type_overrides import OVERRIDES
from liveedit.models.tiny.without_timm import without_timm
from liveedit.models.vlm import VLM
from liveedit.types import Query

TINY = {"blip-2": "blip2"}
CHATML = "<|im_end|>\n<|im_start|>assistant\n"
ASKED = {"qwen2_vl": CHATML, "qwen_vl": CHATML, "mplug_owl2": " ASSISTANT: "}
"""What stands between prompt and answer in a chat."""
PAPERS = [
    "llava",
    "blip-2",
    "minigpt4 in raw prompts",
    "mplug_owl2",
    "mplug_owl2 in raw prompts",
    "qwen_vl",
]
EVERY = [*PAPERS, "qwen2_vl", "qwen2_vl in raw prompts"]
TODAY = [  # what people run, each unlike the others in what the generic family has to find
    "chameleon",
    "emu3",
    "fuyu",
    "gemma3",
    "gemma3n",
    "gemma4",
    "git",
    "glm4v",
    "glm5_next",
    "granite4_vision",
    "hunyuan_vl",
    "idefics2",
    "idefics3",
    "inkling2",
    "inkling_mm_model",
    "instructblip",
    "internvl",
    "kosmos-2",
    "kosmos-2.5",
    "lfm2_vl",
    "llama4",
    "llava_next",
    "llava_onevision",
    "minicpmv4_6",
    "mistral3",
    "molmo2",
    "nemotron_h_omni",
    "ovis2",
    "paligemma",
    "perception_lm",
    "pp_chart2table",
    "qwen2_5_vl",
    "qwen3_5",
    "qwen3_vl",
    "qwen4_exp",
    "unlimited_ocr",
]


def make(param):
    name = param.split()[0]
    if name not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such type")
    made = tiny(TINY.get(name, name))
    made = VLM(made.model, made.processor, "raw") if "raw" in param else made
    made.logits(
        made.encode(QUERIES)
    )  # transformers puts hooks of its own on a vision tower when it first runs
    return made


@pytest.fixture(scope="module", params=[*EVERY, *TODAY])
def vlm(request):
    return make(request.param)


@pytest.fixture(scope="module", params=[*EVERY, "llava_next"])
def own(request):
    """The families of the papers, and one that the generic family reads."""
    return make(request.param)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(vlm, name):
    CHECKS[name](vlm)


def test_every_family_is_run_and_passed():
    found = checked()
    assert set(FAMILIES) <= set(found)
    assert set(found) >= set(known_types())
    assert all(found[name].reason is None for name in FAMILIES)
    assert all(found[name].reason == reason for name, reason in REFUSED.items())
    assert sum(record.reason is None for record in found.values()) >= 50


def test_a_check_that_does_not_hold_says_what(vlm, monkeypatch):
    monkeypatch.setattr(vlm, "image_tokens", torch.zeros_like)
    with pytest.raises(Broken, match="no image token"):
        CHECKS["image_span_holds_the_image"](vlm)
    (finding,) = examine(vlm, ["image_span_holds_the_image"])
    assert finding.reason == "an image has no image token"
    assert finding.proves.startswith("Every image token")


def test_save_and_load(vlm, tmp_path):
    if getattr(vlm.processor.image_processor, "backend", "") == "torchvision":
        pytest.skip("a checkpoint of it is read with torchvision")
    if "asks" in OVERRIDES.get(vlm.model.config.model_type, {}):
        pytest.skip("its processor reads smaller images than a saved one")
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    with without_timm():
        loaded = VLM.load(tmp_path, prompt_format=vlm.prompt_format)
    assert type(loaded) is type(vlm)
    assert loaded.fingerprint == vlm.fingerprint
    assert torch.equal(loaded.logits(loaded.encode(QUERIES)), vlm.logits(vlm.encode(QUERIES)))


# What is the same for all, on the families of the papers


def test_one_blank_between_prompt_and_target(own):
    batch = own.encode(QUERIES)
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        text = own.tokenizer.decode(batch.inputs["input_ids"][row, span.start : span.stop])
        if own.prompt_format == "raw":
            assert text.endswith(f"{query.prompt.strip()} {query.target.strip()}")
        else:
            between = ASKED[own.model.config.model_type]
            assert text.endswith(f"{query.prompt.strip()}{between}{query.target.strip()}")


def test_image_from_a_path(own, tmp_path):
    WIDE.save(tmp_path / "flag.png")
    one, other = (
        own.encode([replace(QUERIES[0], image=image)]) for image in (WIDE, tmp_path / "flag.png")
    )
    for name, value in one.inputs.items():
        assert torch.equal(value, other.inputs[name])


def test_no_query_is_refused(own):
    with pytest.raises(BadInput, match="no query"):
        own.encode([])
    assert own.generate([]) == []


def test_broken_image_is_refused(own, tmp_path):
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


@pytest.mark.parametrize("site", ["layers.1.mlp", "layers.0.self_attn", "norm"])
def test_generation_sees_a_patch_within_a_layer(own, site):
    if own.model.config.model_type == "blip-2":  # OPT's names
        site = {"layers.1.mlp": "layers.1.fc2", "norm": "final_layer_norm"}.get(site, site)
    plain, patch = own.generate(QUERIES, max_new_tokens=6), Routed(0, site=site)
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
    model_type = vlm.model.config.model_type
    return tiny(TINY.get(model_type, model_type), seed)


def test_fingerprint_tells_models_apart(own):
    assert another(own).fingerprint == own.fingerprint
    nudged = another(own)
    next(nudged.layers[3].parameters()).data.view(-1)[5] += 1e-3
    assert nudged.fingerprint != own.fingerprint
    assert another(own, seed=1).fingerprint != own.fingerprint


def test_half_precision(own):
    half = VLM(another(own).model.bfloat16(), own.processor, own.prompt_format)
    batch = half.encode(QUERIES)
    assert half.logits(batch).dtype == torch.bfloat16
    close(
        half.resume(1, half.hidden(batch, 1)), half.logits(batch), "resume and logits in bfloat16"
    )
    with half.patched(Routed(middle(half))):
        assert len(half.generate(QUERIES, max_new_tokens=2)) == len(QUERIES)
