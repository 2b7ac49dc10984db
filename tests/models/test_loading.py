"""Loading a checkpoint: what is refused, and with which message."""

import json
import re
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from liveedit.editable import embedded
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.families.llava import Llava
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query


def test_unknown_model_type(tmp_path, one_line_error):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with one_line_error(UnsupportedModel, match="'mamba'.*`liveedit models` lists"):
        VLM.load(tmp_path)


def test_a_config_without_model_type(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModel):
        VLM.load(tmp_path)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "~/nowhere", "nowhere", "a/b/c"])
def test_missing_folder(path, one_line_error):
    with one_line_error(BadInput, match=f"no model folder at {re.escape(path)}"):
        VLM.load(path)


def unreachable(*_, **__):
    raise OSError("[Errno -2] Name or service not known\n")


def test_an_id_that_cannot_be_reached(monkeypatch, one_line_error):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    start = time.monotonic()
    with one_line_error(
        BadInput, match="cannot read the model owner/name: Hugging Face cannot be reached"
    ):
        VLM.load("owner/name")
    assert time.monotonic() - start < 3


def test_an_id_that_cannot_be_reached_is_read_from_its_copy(saved, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(saved))
    assert VLM.load("owner/name").fingerprint == tiny("llava").fingerprint


def test_an_id_that_is_not_there(monkeypatch, one_line_error):
    def missing(*_, **__):
        raise RepositoryNotFoundError(
            "404\nNot found", response=SimpleNamespace(headers={}, request=None)
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", missing)
    with one_line_error(BadInput, match="Hugging Face has no model owner/name: check the id"):
        VLM.load("owner/name")


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
def test_a_checkpoint_for_the_authors_code_names_its_converter(
    theirs, model_type, ours, tmp_path, one_line_error
):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": [theirs], "model_type": model_type})
    )
    with one_line_error(UnsupportedModel, match=f"liveedit models convert {ours} {tmp_path} OUT"):
        VLM.load(tmp_path)


def test_a_checkpoint_of_llavas_authors(tmp_path, one_line_error):
    config = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": 4096,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "openai/clip"}))
    with one_line_error(UnsupportedModel, match=r"LLaVA's authors: .* llava-hf/llava-1\.5-7b-hf"):
        VLM.load(tmp_path)


def test_a_config_that_is_no_json(tmp_path, one_line_error):
    (tmp_path / "config.json").write_text("{")
    with one_line_error(BadInput, match="cannot read the model"):
        VLM.load(tmp_path)


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


def test_truncated_weights(saved, one_line_error):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with one_line_error(BadInput, match="cannot read the model"):
        VLM.load(saved)


def test_missing_weights(saved, one_line_error):
    weights = load_file(saved / "model.safetensors")
    name = sorted(weights)[0]
    save_file(
        {key: value for key, value in weights.items() if key != name},
        saved / "model.safetensors",
        {"format": "pt"},
    )
    with one_line_error(BadInput, match="lacks"):
        VLM.load(saved)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_file_is_named(saved, name, damage, one_line_error):
    (saved / name).write_bytes(damage)
    with one_line_error(BadInput, match=f"cannot read the model .*: {name} is damaged"):
        VLM.load(saved)


def rewrite(file, **changes):
    settings = json.loads(file.read_text())
    for name, value in changes.items():
        settings[name] = value
        if value is None:
            del settings[name]
    file.write_text(json.dumps(settings))


def test_weights_of_another_shape(saved, caplog, one_line_error):
    text = json.loads((saved / "config.json").read_text())["text_config"]
    rewrite(saved / "config.json", text_config=text | {"intermediate_size": 80})
    with one_line_error(BadInput, match=r"of shape \(32, 64\), where its config says \(32, 80\)"):
        VLM.load(saved)
    assert not caplog.records


@pytest.mark.parametrize("text", [None, {}])
def test_a_config_without_text_decoder_does_not_start_a_large_model(saved, text, one_line_error):
    rewrite(saved / "config.json", text_config=text)
    with one_line_error(BadInput, match="does not describe its text decoder"):
        VLM.load(saved)


OLD = [
    (
        "patch_size",
        "vision_feature_select_strategy",
        "num_additional_image_tokens",
    ),  # before transformers 4.46
    ("num_additional_image_tokens",),  # before 4.47
]


@pytest.mark.parametrize("lacking", OLD)
def test_an_old_processor_file_is_completed_from_the_config(saved, lacking, flag):
    rewrite(saved / "processor_config.json", **dict.fromkeys(lacking))
    query = [Query("Which flag?", "Japan", flag)]
    loaded, expected = (vlm.encode(query) for vlm in (VLM.load(saved), tiny("llava")))
    assert torch.equal(loaded.inputs["input_ids"], expected.inputs["input_ids"])


def test_a_processor_that_does_not_fit_is_found_at_load(saved, one_line_error):
    rewrite(saved / "processor_config.json", patch_size=4)
    with one_line_error(
        UnsupportedModel, match="does not fit the model: Image features and image tokens"
    ):
        VLM.load(saved)


def test_a_checkpoint_without_processor(saved, one_line_error):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    with one_line_error(BadInput, match="cannot read the model"):
        VLM.load(saved)


def test_load_keeps_what_is_asked_for(saved):
    vlm = VLM.load(saved, dtype=torch.float64, device_map="cpu", prompt_format="raw")
    assert isinstance(vlm, Llava)
    assert (vlm.dtype, vlm.device.type, vlm.prompt_format) == (torch.float64, "cpu", "raw")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": {"": "nowhere"}}, "there is no device 'nowhere'"),
        ({"device_map": "nowhere"}, "there is no device 'nowhere'"),
        ({"device_map": 5.5}, "there is no device 5.5"),
        ({"max_memory": 5}, "give a device_map, too"),
        ({"max_memory": {"cpu": "1GB"}}, "give a device_map, too"),
        ({"device_map": "auto", "max_memory": {"nowhere": "1GB"}}, "there is no device 'nowhere'"),
        ({"device_map": "cuda"}, "there is no CUDA device here for 'cuda': use cpu"),
        ({"device_map": {"": "cuda:1"}}, "there is no CUDA device here for 'cuda:1'"),
    ],
)
def test_devices_that_are_not_here_are_named(options, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=re.escape(says)) as caught:
        VLM.load(embedded("vlm"), **options)
    assert "files" not in str(caught.value)
