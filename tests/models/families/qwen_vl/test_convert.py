"""The converter of Qwen-VL: forms of the files, and files that are missing, broken or of another
model.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveedit.errors import BadInput, StorageError
from liveedit.models.families.qwen_vl import convert as qwen_vl_convert
from liveedit.models.families.qwen_vl.convert import convert
from liveedit.models.vlm import VLM

FOLDER = Path(__file__).parents[3] / "assets" / "parity" / "qwen_vl"


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "qwen.tiktoken", "model.safetensors"):
        shutil.copy(FOLDER / name, folder / name)
    return folder


def shards(folder):
    """The same weights as two ``.bin`` files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {
        name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin"
        for number, name in enumerate(tensors)
    }
    for file in set(places.values()):
        torch.save(
            {name: tensor for name, tensor in tensors.items() if places[name] == file},
            folder / file,
        )
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def changed(folder, **settings):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def refused(weights, match, error=BadInput):
    out = weights.parent / "ours"
    with pytest.raises(error, match=match) as caught:
        convert(weights, out)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in weights.parent.iterdir()) == ["theirs"]


def test_shards_and_one_file_give_the_same(weights, tmp_path):
    convert(weights, tmp_path / "one")
    shards(weights)
    convert(weights, tmp_path / "two")
    one, two = VLM.load(tmp_path / "one"), VLM.load(tmp_path / "two")
    assert one.dtype == torch.float16
    assert one.fingerprint == two.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "theirs", "two"]


def test_the_two_models_have_their_own_prompts_and_ends_of_text(weights, tmp_path):
    convert(weights, tmp_path / "chat")
    (weights / "generation_config.json").write_text('{"chat_format": "raw"}', encoding="utf-8")
    convert(weights, tmp_path / "base")
    chat, base = VLM.load(tmp_path / "chat"), VLM.load(tmp_path / "base")
    assert (chat.prompt_format, base.prompt_format) == ("chat", "raw")
    assert (chat.tokenizer.eos_token, base.tokenizer.eos_token) == ("<|im_end|>", "<|endoftext|>")
    stops = [
        vlm.tokenizer.convert_ids_to_tokens(vlm.model.generation_config.eos_token_id)
        for vlm in (chat, base)
    ]
    assert stops == [["<|im_end|>", "<|im_start|>", "<|endoftext|>"], ["<|endoftext|>"]]


@pytest.mark.parametrize("name", ["config.json", "qwen.tiktoken", "model.safetensors"])
def test_a_missing_file_is_refused(weights, name):
    (weights / name).unlink()
    refused(weights, "holds no weights" if name == "model.safetensors" else f"cannot read .*{name}")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "qwen.tiktoken", "model.safetensors"]
)
def test_a_truncated_file_is_refused(weights, name):
    content = (weights / name).read_bytes()
    (weights / name).write_bytes(content[: len(content) // 2])
    refused(weights, f"{name} is (broken|not the vocabulary)")


def test_a_vocabulary_that_ends_early_is_refused(weights):
    lines = (weights / "qwen.tiktoken").read_text().splitlines()
    (weights / "qwen.tiktoken").write_text("\n".join(lines[:300]))
    refused(weights, "not the vocabulary of this config")


def test_a_missing_and_a_truncated_shard_are_refused(weights):
    shards(weights)
    second = weights / "pytorch_model-00002-of-00002.bin"
    second.write_bytes(second.read_bytes()[:-1000])
    refused(weights, "00002-of-00002.bin is broken")
    second.unlink()
    refused(weights, "00002-of-00002.bin is missing")


def test_weights_of_another_model_are_refused(weights):
    tensors = load_file(weights / "model.safetensors")
    gone = tensors.pop("transformer.ln_f.weight")
    save_file(tensors, weights / "model.safetensors")
    refused(weights, r"lacks 1 weights, model\.language_model\.norm\.weight")
    save_file(
        tensors | {"transformer.ln_f.weight": gone[:5].clone()}, weights / "model.safetensors"
    )
    refused(weights, r"norm\.weight \(5,\)")
    save_file(
        tensors | {"transformer.ln_f.weight": gone, "score.weight": gone.clone()},
        weights / "model.safetensors",
    )
    refused(weights, r"score\.weight")


def test_the_config_of_another_model_is_refused(weights):
    changed(weights, no_bias=False)
    refused(weights, "options that no released Qwen-VL has")
    changed(weights, no_bias=True, visual=None)
    refused(weights, "not that of a Qwen-VL")


def test_buffers_of_older_files_are_left_out(weights, tmp_path):
    tensors = load_file(weights / "model.safetensors")
    save_file(
        tensors | {"transformer.rotary_emb.inv_freq": torch.ones(3)}, weights / "model.safetensors"
    )
    convert(weights, tmp_path / "ours")
    assert VLM.load(tmp_path / "ours").num_layers == 2


def test_nothing_is_overwritten(weights, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="already exists"):
        convert(weights, tmp_path / "ours")
    assert (tmp_path / "ours" / "mine.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing(weights, monkeypatch, full_disk):
    monkeypatch.setattr(qwen_vl_convert, "save_file", full_disk)
    refused(weights, "No space left on device", StorageError)
