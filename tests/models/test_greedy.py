"""Generation is plain greedy decoding, whatever the settings of a checkpoint."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import transformers

from liveedit.errors import BadInput
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.reference import cut, greedy, middle
from liveedit.models.conformance.sample_patches import Nudged
from liveedit.models.tiny import tiny

SETTINGS = {
    "do_sample": True,
    "num_beams": 3,
    "min_new_tokens": 6,
    "min_length": 200,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 9.0,
    "bad_words_ids": [[number] for number in range(5, 300, 2)],
    "suppress_tokens": [*range(5, 300, 2)],
    "begin_suppress_tokens": [*range(5, 300)],
    "sequence_bias": [[[number], 50.0] for number in range(5, 20)],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": [1, 9.0],
    "guidance_scale": 3.0,
    "stop_strings": ["a", "e", "i"],
    "prompt_lookup_num_tokens": 3,
    "cache_implementation": "static",
    "use_cache": False,
    "return_dict_in_generate": True,
    "output_scores": True,
    "max_length": 3,
    "max_time": 0.0,
    "watermarking_config": {"bias": 20.0},
    "renormalize_logits": True,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "token_healing": True,
}

SAMPLED = {"do_sample": True, "temperature": 3.0, "num_return_sequences": 3}


@pytest.fixture(scope="module", params=["llava", "blip2"])
def vlm(request):
    return tiny(request.param)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_of_a_checkpoint_changes_an_answer(vlm, name, monkeypatch):
    expected = [cut(vlm, greedy(vlm, query, 4)) for query in QUERIES[:2]]
    for model in {vlm.model, getattr(vlm.model, "language_model", vlm.model)}:
        if hasattr(model, "generation_config"):
            settings = model.generation_config.to_dict() | SAMPLED | {name: SETTINGS[name]}
            monkeypatch.setattr(
                model, "generation_config", transformers.GenerationConfig.from_dict(settings)
            )
    assert vlm.generate(QUERIES[:2], max_new_tokens=4) == expected


def test_an_answer_ends_with_the_token_at_which_generation_stops(vlm, monkeypatch):
    """The generation config's end of text counts; of several, the tokenizer's own."""
    own = vlm.tokenizer.eos_token_id
    other = vlm.tokenizer("x", add_special_tokens=False)["input_ids"][0]
    for ends, last in ((own, own), (other, other), ([other, own], own), (None, own)):
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", ends)
        row = vlm.encode(QUERIES[:1], eos=True).inputs["input_ids"][0]
        assert row[-1] == last
        assert last in vlm.stops


@pytest.fixture(scope="module", params=["minigpt4", "mplug_owl2", "qwen_vl"])
def own(request):
    """A family whose model is this package's own, and a copy of the model to propose tokens."""
    made = tiny(request.param)
    return made, deepcopy(made.model)


LOOKUP, STATIC = {"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}
REFUSED = {
    "minigpt4": {"prompt_lookup_num_tokens", "assistant_model"},
    "mplug_owl2": {*LOOKUP},
    "qwen_vl": set(),
}
PLAIN = {"max_new_tokens": 6, "do_sample": False}


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("option", [*LOOKUP, *STATIC, "assistant_model", "generation_config"])
def test_raw_generate_of_the_packages_own_models_is_greedy_or_refused(own, option, patched):
    vlm, copied = own
    config = transformers.GenerationConfig(**PLAIN, **LOOKUP)
    options = PLAIN | {
        option: (LOOKUP | STATIC | {"assistant_model": copied, "generation_config": config})[option]
    }
    named = {"generation_config": "prompt_lookup_num_tokens"}.get(option, option)
    wrong = REFUSED[vlm.model.config.model_type] & {named}
    for query in QUERIES[:3:2]:
        inputs = vlm.encode([replace(query, target="")], padding_side="left").inputs
        with torch.no_grad(), vlm.patched(Nudged(middle(vlm), 0.5)) if patched else nullcontext():
            if wrong:
                with pytest.raises(BadInput, match=f"^{named} .*: leave it out$"):
                    vlm.model.generate(**inputs, **options)
            else:
                assert torch.equal(
                    vlm.model.generate(**inputs, **options), vlm.model.generate(**inputs, **PLAIN)
                )


@pytest.mark.parametrize("patched", [False, True])
def test_beams_of_the_packages_own_models_are_those_without_a_cache(own, patched):
    vlm, _ = own
    batch = vlm.encode([replace(query, target="") for query in QUERIES[:3:2]], padding_side="left")
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    with torch.no_grad(), vlm.patched(Nudged(middle(vlm), 0.5)) if patched else nullcontext():
        found = [
            vlm.model.generate(**batch.inputs, **options, use_cache=cached)
            for cached in (True, False)
        ]
    assert torch.equal(*found)
