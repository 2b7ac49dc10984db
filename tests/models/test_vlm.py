"""Loading, errors, chat templates and what single families do differently."""

import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from liveedit.editable import EditableVLM, embedded
from liveedit.editors import new_editor
from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.families.llava import Llava
from liveedit.models.tiny import tiny
from liveedit.models.runner import scaled
from liveedit.models.vlm import VLM
from liveedit.types import Query

FLAG = Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint8).reshape(40, 60, 3))


@pytest.fixture
def saved(tmp_path):
    vlm = tiny("llava")
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    return tmp_path


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_model_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UnsupportedModel, match="'mamba'") as caught:
        VLM.load(tmp_path)
    assert "`liveedit models` lists" in one_line(caught)


def test_a_config_without_model_type(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModel):
        VLM.load(tmp_path)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "~/nowhere", "nowhere", "a/b/c"])
def test_missing_folder(path):
    with pytest.raises(BadInput, match="no model folder at") as caught:
        VLM.load(path)
    assert path in one_line(caught)


def unreachable(*_, **__):
    raise OSError("[Errno -2] Name or service not known\n")


def test_an_id_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    start = time.monotonic()
    with pytest.raises(
        BadInput, match="cannot read the model owner/name: Hugging Face cannot be reached"
    ) as caught:
        VLM.load("owner/name")
    one_line(caught)
    assert time.monotonic() - start < 3


def test_an_id_that_cannot_be_reached_is_read_from_its_copy(saved, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(saved))
    assert VLM.load("owner/name").fingerprint == tiny("llava").fingerprint


def test_an_id_that_is_not_there(monkeypatch):
    def missing(*_, **__):
        raise RepositoryNotFoundError(
            "404\nNot found", response=SimpleNamespace(headers={}, request=None)
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", missing)
    with pytest.raises(
        BadInput, match="Hugging Face has no model owner/name: check the id"
    ) as caught:
        VLM.load("owner/name")
    one_line(caught)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        VLM.load(tmp_path)


@pytest.mark.parametrize(
    ("theirs", "model_type", "ours"),
    [
        ("QWenLMHeadModel", "qwen", "qwen_vl"),
        ("MPLUGOwl2LlamaForCausalLM", "mplug_owl2", "mplug_owl2"),
    ],
)
def test_a_checkpoint_for_the_authors_code_names_its_converter(theirs, model_type, ours, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": [theirs], "model_type": model_type})
    )
    with pytest.raises(
        UnsupportedModel, match=f"liveedit models convert {ours} {tmp_path} OUT"
    ) as caught:
        VLM.load(tmp_path)
    one_line(caught)


def test_a_config_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot read the model") as caught:
        VLM.load(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("part", ["image_states", "logits", "read"])
def test_memory_that_runs_out_is_not_the_models_fault(saved, part, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if part == "read":
        monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", fail)
    else:
        monkeypatch.setattr(VLM, part, fail)
    with pytest.raises(torch.OutOfMemoryError):
        VLM.load(saved)


def test_truncated_weights(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot read the model") as caught:
        VLM.load(saved)
    one_line(caught)


def test_missing_weights(saved):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    name = sorted(weights)[0]
    save_file(
        {key: value for key, value in weights.items() if key != name},
        saved / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(BadInput, match="lacks") as caught:
        VLM.load(saved)
    one_line(caught)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_file_is_named(saved, name, damage):
    (saved / name).write_bytes(damage)
    with pytest.raises(BadInput, match=f"cannot read the model .*: {name} is damaged") as caught:
        VLM.load(saved)
    one_line(caught)


def rewrite(file, **changes):
    settings = json.loads(file.read_text())
    for name, value in changes.items():
        settings[name] = value
        if value is None:
            del settings[name]
    file.write_text(json.dumps(settings))


def test_weights_of_another_shape(saved, caplog):
    text = json.loads((saved / "config.json").read_text())["text_config"]
    rewrite(saved / "config.json", text_config=text | {"intermediate_size": 80})
    with pytest.raises(
        BadInput, match=r"of shape \(32, 64\), where its config says \(32, 80\)"
    ) as caught:
        VLM.load(saved)
    one_line(caught)
    assert not caplog.records


@pytest.mark.parametrize("text", [None, {}])
def test_a_config_without_text_decoder_does_not_start_a_large_model(saved, text):
    rewrite(saved / "config.json", text_config=text)
    with pytest.raises(BadInput, match="does not describe its text decoder") as caught:
        VLM.load(saved)
    one_line(caught)


def test_a_checkpoint_of_llavas_authors(tmp_path):
    config = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": 4096,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "openai/clip"}))
    with pytest.raises(
        UnsupportedModel, match=r"LLaVA's authors: .* llava-hf/llava-1\.5-7b-hf"
    ) as caught:
        VLM.load(tmp_path)
    one_line(caught)


OLD = [
    (
        "patch_size",
        "vision_feature_select_strategy",
        "num_additional_image_tokens",
    ),  # before transformers 4.46
    ("num_additional_image_tokens",),  # before 4.47
]


@pytest.mark.parametrize("lacking", OLD)
def test_an_old_processor_file_is_completed_from_the_config(saved, lacking):
    rewrite(saved / "processor_config.json", **dict.fromkeys(lacking))
    query = [Query("Which flag?", "Japan", FLAG)]
    assert (
        VLM.load(saved)
        .encode(query)
        .inputs["input_ids"]
        .equal(tiny("llava").encode(query).inputs["input_ids"])
    )


def test_a_processor_that_does_not_fit_is_found_at_load(saved):
    rewrite(saved / "processor_config.json", patch_size=4)
    with pytest.raises(
        UnsupportedModel, match="does not fit the model: Image features and image tokens"
    ) as caught:
        VLM.load(saved)
    one_line(caught)


def test_a_processor_without_image_processor():
    vlm = tiny("llava")
    for lacking in (vlm.tokenizer, vlm.processor.image_processor):
        with pytest.raises(UnsupportedModel, match="the processor has no") as caught:
            VLM(vlm.model, lacking)
        one_line(caught)


def test_a_checkpoint_of_half_precision_is_the_same_model_in_any(saved):
    half = tiny("llava")
    half.model.half().save_pretrained(saved)
    own, single = VLM.load(saved), VLM.load(saved, dtype=torch.float32)
    assert (own.dtype, single.dtype) == (torch.float16, torch.float32)
    assert own.fingerprint == single.fingerprint != tiny("llava").fingerprint


def test_a_checkpoint_without_processor(saved):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    with pytest.raises(BadInput, match="cannot read the model") as caught:
        VLM.load(saved)
    one_line(caught)


def test_load_keeps_what_is_asked_for(saved):
    vlm = VLM.load(saved, dtype=torch.float64, device_map="cpu", prompt_format="raw")
    assert isinstance(vlm, Llava)
    assert (vlm.dtype, vlm.device.type, vlm.prompt_format) == (torch.float64, "cpu", "raw")


def test_wrapping_a_model_of_no_family():
    model = SimpleNamespace(config=SimpleNamespace(model_type="mamba"))
    with pytest.raises(UnsupportedModel, match="'mamba'"):
        VLM(model, None)


def test_tiny_models_are_reproducible_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, other = tiny("llava", seed=5), tiny("llava", seed=5)
    assert torch.equal(torch.rand(1), expected)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("dtype", "before"),
    [
        (torch.bfloat16, "54fac84f2a611f6cd6a73201be00d512d5ff8f80f7796e6a76a5fd61063a73db"),
        (torch.float16, "10f0fe6e0f4260e5e04290130ebb02b9c8c8c10f8350ddf8cabbef8149075fb8"),
    ],
)
def test_a_model_in_half_precision_is_known_as_it_was_before(dtype, before, tmp_path):
    """When its fingerprint still counted the bits of half precision: pools and editors of then
    open.
    """
    full = tiny("llava")
    half = VLM(tiny("llava").model.to(dtype), full.processor)
    assert half.known_as(before)
    assert half.known_as(half.fingerprint)
    assert not half.known_as("0" * 64)
    assert not full.known_as(before)
    editor = new_editor(half, "ft-l")
    editor.claim({"editor": editor.fingerprint, "model": before}, tmp_path)
    with pytest.raises(Mismatch, match="another model"):
        editor.claim({"editor": editor.fingerprint, "model": "0" * 64}, tmp_path)
    with pytest.raises(Mismatch, match="another editor"):
        editor.claim({"editor": "0" * 64, "model": before}, tmp_path)


# Prompts


@pytest.mark.parametrize("family", ["llava", "blip2", "git", "instructblip", "qwen2_5_vl"])
def test_a_prompt_that_the_model_has_no_room_for(family):
    vlm = tiny(family)
    with pytest.raises(
        BadInput, match=r"room for \d+ tokens, and the prompt takes \d+: shorten"
    ) as caught:
        vlm.generate([Query("film " * 40_000, image=FLAG)])
    one_line(caught)


def test_an_answer_that_the_model_has_no_room_for():
    vlm = tiny("blip2")
    [length] = vlm.positions(vlm.encode([Query("Which film?", image=FLAG)])).tolist()
    assert vlm.generate([Query("Which film?", image=FLAG)], max_new_tokens=vlm.room - length)
    with pytest.raises(
        BadInput, match="an answer up to 600 more: ask for a shorter one, or shorten"
    ) as caught:
        vlm.generate([Query("Which film?", image=FLAG)], max_new_tokens=600)
    one_line(caught)


@pytest.mark.parametrize(
    ("rope", "room"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
    ],
)
def test_stretched_positions(rope, room, monkeypatch):
    vlm = tiny("llava")
    monkeypatch.setattr(vlm.model.config.text_config, "rope_parameters", rope)
    assert vlm.room == room


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("Which film?", "Becket", "Which film? Becket"),
        ("Which film?", " Becket\n", "Which film? Becket"),
        ("assistant\n", "Becket", "assistant\nBecket"),
        ("Which film?", "  ", "Which film?"),
        ("", "Becket", "Becket"),
    ],
)
def test_joining_prompt_and_target(prompt, target, text):
    assert prompt + tiny("llava").said(prompt, target) == text


def test_default_format_is_chat_where_there_is_a_template():
    families = ("llava", "blip2", "minigpt4", "qwen2_vl")
    assert [tiny(family).prompt_format for family in families] == ["raw", "raw", "chat", "chat"]
    llava = tiny("llava")
    with pytest.raises(BadInput, match="no chat template"):
        VLM(llava.model, llava.processor, "chat")


@pytest.mark.parametrize(
    ("family", "rendered"),
    [
        ("blip2", "Which flag?"),
        ("llava", "<image>Which flag?"),
        ("minigpt4", "###Human: <Img><ImageHere></Img> \x1fWhich flag?"),
        ("mplug_owl2", "<|image|>Which flag?"),
        ("qwen_vl", "Picture 1: <img><imgpad></img>\nWhich flag?"),
    ],
)
def test_the_prompts_of_vlkeb(family, rendered):
    made = tiny(family)
    vlm = VLM(made.model, made.processor, "vlkeb")
    assert vlm.render(Query("Which flag? ", image=FLAG)) == rendered
    assert vlm.render(Query("Which flag? ")) == "Which flag?"


def test_a_model_that_vlkeb_does_not_have_has_no_prompt_of_it():
    made = tiny("qwen2_vl")
    with pytest.raises(BadInput, match="no VLKEB prompt is defined for this model"):
        VLM(made.model, made.processor, "vlkeb")


def test_a_template_that_writes_bos_itself():
    vlm = tiny("llava")
    vlm.processor.chat_template = (
        "<s>USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:"
    )
    chat = VLM(vlm.model, vlm.processor)
    assert chat.prompt_format == "chat"
    batch = chat.encode([Query("Which flag?", "Japan", FLAG)])
    ids = batch.inputs["input_ids"][0].tolist()
    assert ids.count(vlm.tokenizer.bos_token_id) == 1
    text = vlm.tokenizer.decode(ids).replace("<image>", "")
    assert text == "<s>USER: \nWhich flag? ASSISTANT: Japan"


def test_a_template_of_the_tokenizer_alone():
    vlm = tiny("llava")
    vlm.tokenizer.chat_template = "{{ messages[0]['content'] }} ANSWER:"
    chat = VLM(vlm.model, vlm.processor)
    assert chat.render(Query("Which flag?", image=FLAG)) == "<image>\nWhich flag? ANSWER:"


def test_an_empty_query_is_refused_where_the_text_has_no_bos():
    vlm = tiny("qwen2_vl")
    with pytest.raises(BadInput, match="a query is empty"):
        VLM(vlm.model, vlm.processor, "raw").encode([Query("")])


def test_a_target_that_the_tokenizer_cannot_write_is_refused():
    core = Tokenizer(
        models.BPE({"<unk>": 0, "J": 1, "a": 2, "p": 3, "n": 4}, [], unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    vlm = tiny("llava")
    edited = EditableVLM(vlm, new_editor(vlm, "ft-l"))
    vlm.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    vlm.check_target(" Japan\n")
    with pytest.raises(BadInput, match="no token for 日 本: the model cannot answer 'J日本'"):
        edited.edit([Query("Which country?", "Japan"), Query("Which country?", "J日本")])
    assert edited.edits == ()
    tiny("llava").check_target("日本")  # byte by byte


def test_a_tokenizer_without_padding_token():
    vlm = tiny("llava")
    queries = [Query("Which flag?", "Japan", FLAG), Query("who?", "me")]
    expected = vlm.logits(vlm.encode(queries))
    vlm.tokenizer.pad_token = None
    batch = vlm.encode(queries)
    assert vlm.pad_token_id == vlm.tokenizer.eos_token_id
    torch.testing.assert_close(vlm.logits(batch)[0], expected[0])
    stop = batch.spans[1].stop
    torch.testing.assert_close(vlm.logits(batch)[1, :stop], expected[1, :stop])


# Families


def test_qwen_takes_as_many_tokens_as_the_image_is_large():
    vlm = tiny("qwen2_vl")
    images = [FLAG, FLAG.resize((32, 32)), FLAG.resize((16, 64))]
    batch = vlm.encode([Query("What?", image=image) for image in images])
    assert [stop - start for start, stop in (span.image for span in batch.spans)] == [8, 4, 4]
    assert vlm.hidden(batch, 0).position_ids.shape == (3, 3, batch.labels.shape[1])


def test_qwen_needs_no_torchvision(tmp_path):
    vlm = tiny("qwen2_vl")
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from liveedit.models.vlm import VLM; from liveedit.types import Query; from PIL import Image\n"
        f"VLM.load({str(tmp_path)!r}).generate([Query('What?', image=Image.new('RGB', (40, 40)))], max_new_tokens=2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_blip2_with_an_encoder_decoder_is_refused():
    config = SimpleNamespace(model_type="blip-2", use_decoder_only_language_model=False)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        VLM(SimpleNamespace(config=config), None)


def test_blip2_without_image_token_is_refused():
    config = SimpleNamespace(
        model_type="blip-2", use_decoder_only_language_model=True, image_token_id=None
    )
    with pytest.raises(UnsupportedModel, match="no image token"):
        VLM(SimpleNamespace(config=config), None)


def test_resume_where_embeddings_are_narrower_than_the_decoder():
    """OPT-350m projects its embeddings up, and its states down again before the output embedding."""
    vlm = tiny("blip2")
    config = vlm.model.config
    config.text_config.word_embed_proj_dim = 16
    torch.manual_seed(0)
    model = transformers.Blip2ForConditionalGeneration(config)
    model.language_projection = torch.nn.Linear(32, 16)
    narrow = VLM(model, vlm.processor)
    batch = narrow.encode([Query("Which flag?", "Japan", FLAG)])
    torch.testing.assert_close(narrow.resume(1, narrow.hidden(batch, 1)), narrow.logits(batch))


# The decoder


def test_resume_gives_accelerates_forward_back():
    vlm = tiny("llava")
    batch = vlm.encode([Query("Which flag?", "Japan", FLAG)])
    logits = vlm.logits(batch)
    add_hook_to_module(vlm.layers[0], ModelHook())
    held = vars(vlm.layers[0])["forward"]
    torch.testing.assert_close(vlm.resume(1, vlm.hidden(batch, 1)), logits)
    assert vars(vlm.layers[0])["forward"] is held
    assert "forward" not in vars(vlm.layers[1])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, 2.0),
        ({"logit_scale": 0.5}, 1.0),
        ({"logits_scaling": 4.0}, 0.5),
        ({"logits_scaling": 4.0, "model_type": "hyperclovax"}, 8.0),
        ({"final_logit_softcapping": 1.0}, float(torch.tanh(torch.tensor(2.0)))),
    ],
)
def test_logits_are_scaled_as_the_config_says(setting, expected):
    assert scaled(torch.tensor(2.0), SimpleNamespace(**setting)) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": {"": "nowhere"}}, "there is no device 'nowhere'"),
        ({"device_map": "nowhere"}, "there is no device 'nowhere'"),
        ({"device_map": 5.5}, "there is no device 5.5"),
        ({"max_memory": 5}, "give a device_map, too"),
        ({"max_memory": {"cpu": "1GB"}}, "give a device_map, too"),
        ({"device_map": "auto", "max_memory": {"nowhere": "1GB"}}, "there is no device 'nowhere'"),
        ({"device_map": "cuda"}, "there is no CUDA device here for 'cuda': say cpu"),
        ({"device_map": {"": "cuda:1"}}, "there is no CUDA device here for 'cuda:1'"),
    ],
)
def test_devices_that_are_not_here_are_named(options, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=re.escape(says)) as caught:
        VLM.load(embedded("vlm"), **options)
    assert "files" not in str(caught.value)
