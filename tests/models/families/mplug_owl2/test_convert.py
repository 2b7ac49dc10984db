"""The converter of mPLUG-Owl2: whatever form the authors' files have, and whatever is wrong with
them.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from liveedit.errors import BadInput, StorageError
from liveedit.models.families.mplug_owl2 import convert as mplug_owl2_convert
from liveedit.models.families.mplug_owl2.convert import convert
from liveedit.models.vlm import VLM

FOLDER = Path(__file__).parents[3] / "assets" / "parity" / "mplug_owl2"
SHARDS = ("pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin")
POSITIONS = "model.visual_abstractor.encoder.layers.0.crossattention.attention.q_pos_embed"


@pytest.fixture
def weights(tmp_path):
    """A folder as the authors released it: weights in two files of PyTorch's, with what their code
    computes anew.
    """
    folder = tmp_path / "authors"
    shutil.copytree(FOLDER, folder)
    state = load_file(folder / "model.safetensors") | {POSITIONS: torch.zeros(8, 32)}
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, held in parts.items():
        torch.save({name: state[name] for name in held}, folder / file)
    places = {}
    for file, held in parts.items():
        places |= dict.fromkeys(held, file)
    index = {"weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def refused(weights, match, error=BadInput):
    """Converting is refused in one line, and leaves nothing."""
    out = weights.parent / "out" / "owl"
    before = sorted(weights.parent.rglob("*"))
    with pytest.raises(error, match=match) as raised:
        convert(weights, out)
    assert "\n" not in str(raised.value)
    assert sorted(path for path in weights.parent.rglob("*") if path != out.parent) == before


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_files_of_pytorch_and_safetensors_give_the_same(weights, tmp_path):
    convert(weights, tmp_path / "one")
    convert(FOLDER, tmp_path / "other")
    one, other = (VLM.load(tmp_path / name) for name in ("one", "other"))
    assert one.fingerprint == other.fingerprint
    assert one.dtype == torch.float16, "the weights keep their type"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authors", "one", "other"]


def test_the_heads_of_fused_weights_are_told_apart():
    fused = torch.arange(2 * 3 * 4.0)[:, None].expand(-1, 5)  # 2 heads of 4
    query, key, value = mplug_owl2_convert.parts(fused, 2)
    assert query[:, 0].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert key[:, 0].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert value[:, 0].tolist() == [8, 9, 10, 11, 20, 21, 22, 23]


def test_sizes_of_images_as_one_number(weights, tmp_path):
    change(weights / "preprocessor_config.json", size=28, crop_size=28)
    convert(weights, tmp_path / "owl")
    pictures = VLM.load(tmp_path / "owl").processor.image_processor
    assert (pictures.size["shortest_edge"], pictures.crop_size["height"]) == (28, 28)


@pytest.mark.skipif(
    not (is_sentencepiece_available() and is_protobuf_available()),
    reason="needs sentencepiece and protobuf",
)
def test_the_tokenizer_of_sentencepiece(weights, tmp_path):
    (weights / "tokenizer.json").unlink()
    convert(weights, tmp_path / "owl")
    owl = VLM.load(tmp_path / "owl")
    for text, ids in json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))["texts"]:
        assert [
            -200 if token == owl.image_token_id else token for token in owl.token_ids([text])[0]
        ] == ids


def test_a_tokenizer_that_cannot_be_read_without_more_packages(weights, monkeypatch):
    (weights / "tokenizer.json").unlink()
    monkeypatch.setattr(mplug_owl2_convert, "is_sentencepiece_available", lambda: False)
    refused(weights, "pip install sentencepiece protobuf")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", *SHARDS])
def test_a_missing_file(weights, name):
    (weights / name).unlink()
    refused(weights, f"there is no .*{name}: get all of the checkpoint's files")


def test_a_missing_tokenizer(weights):
    for name in ("tokenizer.json", "tokenizer.model"):
        (weights / name).unlink()
    refused(weights, r"there is no .*tokenizer\.model")


def test_missing_weights(weights):
    (weights / "pytorch_model.bin.index.json").unlink()
    refused(weights, r"holds neither model\.safetensors nor pytorch_model\.bin")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "pytorch_model.bin.index.json",
        *SHARDS,
    ],
)
def test_a_truncated_file(weights, name):
    content = (weights / name).read_bytes()
    (weights / name).write_bytes(content[: len(content) // 2])
    refused(weights, "is damaged .*: download it again")


def test_a_truncated_file_of_safetensors(weights):
    content = (FOLDER / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(content[:-100])
    refused(weights, r"model\.safetensors is damaged")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("lm_head.weight", r"lacks the weights of lm_head\.weight: get all"),
        (
            "model.layers.0.self_attn.k_proj.multiway.1.weight",
            r"lacks the weights of .*k_proj\.image\.weight: get all",
        ),
    ],
)
def test_weights_that_lack(weights, name, match):
    for file in SHARDS:
        torch.save(
            {other: value for other, value in torch.load(weights / file).items() if other != name},
            weights / file,
        )
    refused(weights, match)


def test_weights_that_do_not_belong(weights):
    state = load_file(FOLDER / "model.safetensors")
    save_file(state | {"model.mm_projector.weight": torch.zeros(1)}, weights / "model.safetensors")
    refused(weights, r"holds model\.mm_projector\.weight, which mPLUG-Owl2 does not have")


def test_weights_of_another_shape(weights):
    change(weights / "config.json", intermediate_size=64)
    refused(
        weights,
        r"mlp\.gate_proj\.weight .* is \(96, 48\) in the file and \(64, 48\) by its config\.json",
    )


def test_a_tokenizer_of_another_model(weights):
    change(weights / "config.json", vocab_size=400)
    refused(weights, r"tokenizer in .* has 384 tokens, and the model 400")


@pytest.mark.parametrize(
    "values", [{"visual_config": {"visual_model": {}}}, {"hidden_size": "wide"}]
)
def test_a_configuration_that_makes_no_sense(weights, values):
    change(weights / "config.json", **values)
    refused(weights, r"config\.json is damaged")


@pytest.mark.parametrize("values", [{"model_type": "mplug_owl2_1"}, {"visual_config": {}}])
def test_another_model(weights, values):
    change(weights / "config.json", **values)
    refused(weights, "is not the authors' mPLUG-Owl2")


def test_a_folder_that_is_there_already(weights, tmp_path):
    (tmp_path / "owl").mkdir()
    with pytest.raises(BadInput, match="already exists: choose another folder"):
        convert(weights, tmp_path / "owl")
    assert list((tmp_path / "owl").iterdir()) == []


def test_a_full_disk_leaves_nothing(weights, monkeypatch, full_disk):
    monkeypatch.setattr(mplug_owl2_convert, "save_torch_state_dict", full_disk)
    refused(weights, "cannot write .*: free some space", StorageError)


def test_a_place_that_cannot_be_written(weights, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*choose another folder"):
        convert(weights, tmp_path / "file" / "owl")
