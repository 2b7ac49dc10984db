"""MiniGPT-4 against what its authors' code computes, and its converter. The recorded numbers are in
tests/assets/parity.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from liveedit.errors import BadInput, StorageError
from liveedit.models.families.minigpt4 import convert as minigpt4_convert
from liveedit.models.families.minigpt4.convert import convert
from liveedit.models.families.minigpt4.family import MiniGPT4, MiniGPT4Processor
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query

PARITY = Path(__file__).parents[3] / "assets" / "parity" / "minigpt4"
FACTS = json.loads((PARITY / "golden.json").read_text())
GOLDEN = load_file(PARITY / "golden.safetensors")
LLAMA = "vicuna-7b/pytorch_model.bin"


def drawn(seed, shapes):
    """Random weights as the recording drew them: normal, times 0.2, norms around 1, rounded to half
    precision.
    """
    random = np.random.RandomState(seed)
    for name, shape in shapes.items():
        values = random.standard_normal(shape) * 0.2 + (len(shape) == 1 and name.endswith("weight"))
        yield name, torch.from_numpy(values.astype(np.float16).astype(np.float32))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The authors' files, small and random."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(PARITY / "vicuna-7b", folder / "vicuna-7b")
    (folder / "vicuna-7b" / "config.json").write_text(json.dumps(FACTS["config"]))
    for seed, (file, shapes) in enumerate(FACTS["files"].items()):
        state = dict(drawn(seed, shapes))
        torch.save(
            state if file in (LLAMA, "eva_vit_g.pth") else {"model": state, "epoch": 4},
            folder / file,
        )
    return folder


@pytest.fixture
def weights(published, tmp_path):
    return shutil.copytree(published, tmp_path / "weights")


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "minigpt4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt4_convert, "TOWER_LAYERS", 2)  # of the 3 in the file
        convert(published, out)
    return out


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    monkeypatch.setattr(minigpt4_convert, "TOWER_LAYERS", 2)


def query(number):
    prompt, target, image = FACTS["queries"][number]
    return Query(
        prompt, target, None if image is None else Image.fromarray(GOLDEN[f"image_{image}"].numpy())
    )


@pytest.mark.parametrize("form", ["raw", "vlkeb", "chat"])
def test_it_computes_what_the_authors_code_does(converted, form):
    vlm = VLM.load(converted, prompt_format=form)
    assert isinstance(vlm, MiniGPT4)
    rows = [row for row in FACTS["rows"] if row["form"] == form]
    batch = vlm.encode([query(row["query"]) for row in rows])
    logits = vlm.logits(batch)[..., : FACTS["config"]["vocab_size"]]
    for ids, span, found, row in zip(
        batch.inputs["input_ids"], batch.spans, logits, rows, strict=True
    ):
        ids = ids[span.start : span.stop]
        assert ids.where(ids != vlm.image_token_id, -1).tolist() == row["ids"]
        expected = GOLDEN[f"{form}_{row['query']}"]
        torch.testing.assert_close(found[span.start : span.stop], expected, rtol=1e-4, atol=1e-4)


def test_the_image_becomes_what_the_authors_code_makes_of_it(converted):
    vlm = VLM.load(converted)
    for index in (0, 1):
        image = Image.fromarray(GOLDEN[f"image_{index}"].numpy())
        pixels = vlm.encode([Query("?", image=image)]).inputs["pixel_values"][0]
        torch.testing.assert_close(pixels, GOLDEN[f"pixels_{index}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            vlm.image_states(image), GOLDEN[f"embeds_{index}"], rtol=1e-4, atol=1e-4
        )


def test_the_checkpoint_is_one_of_the_auto_classes(converted):
    model = transformers.AutoModelForImageTextToText.from_pretrained(converted)
    processor = transformers.AutoProcessor.from_pretrained(converted)
    assert isinstance(processor, MiniGPT4Processor)
    asked = query(0)
    text = f"<ImageHere>\n{asked.prompt} {asked.target}"
    logits = model(**processor(images=[asked.image], text=[text], return_tensors="pt")).logits[0]
    torch.testing.assert_close(logits[:, :400], GOLDEN["raw_0"], rtol=1e-4, atol=1e-4)
    assert (logits[:, model.config.image_token_id] == 0).all()
    assert model.vision_model.post_layernorm.eps == 1e-5  # too little to be seen in the logits


def test_half_precision_is_kept_but_for_the_qformer(weights, tmp_path):
    config = weights / "vicuna-7b" / "config.json"
    config.write_text(config.read_text().replace("float32", "float16"))
    state = torch.load(weights / LLAMA)
    torch.save({name: value.half() for name, value in state.items()}, weights / LLAMA)
    convert(weights, tmp_path / "out")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    single = {
        name.partition(".")[0] for name, value in kept.items() if value.dtype == torch.float32
    }
    assert single == {"qformer", "query_tokens"}
    half = VLM.load(tmp_path / "out", prompt_format="raw")
    assert half.dtype == torch.float16
    logits = half.logits(half.encode([query(0)]))[0, :, :400].float()
    torch.testing.assert_close(logits, GOLDEN["raw_0"], rtol=0.05, atol=0.05)


def test_weights_that_the_authors_trained_override_the_others(weights, tmp_path):
    file = weights / "prerained_minigpt4_7b.pth"
    trained = torch.load(file)
    trained["model"]["query_tokens"] = torch.ones(
        FACTS["files"]["blip2_pretrained_flant5xxl.pth"]["query_tokens"]
    )
    torch.save(trained, file)
    convert(weights, tmp_path / "out")
    assert (load_file(tmp_path / "out" / "model.safetensors")["query_tokens"] == 1).all()


@pytest.mark.parametrize(
    "file", ["eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "prerained_minigpt4_7b.pth", LLAMA]
)
def test_a_missing_or_truncated_file_is_refused_in_one_line(weights, tmp_path, file):
    data = (weights / file).read_bytes()
    (weights / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"damaged|cannot read") as truncated:
        convert(weights, tmp_path / "out" / "new")
    (weights / file).unlink()
    with pytest.raises(BadInput, match=r"holds no|cannot read") as missing:
        convert(weights, tmp_path / "out" / "new")
    assert "\n" not in str(truncated.value) + str(missing.value)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_missing_or_of_another_size_is_refused(weights, tmp_path):
    file = weights / "blip2_pretrained_flant5xxl.pth"
    stored = torch.load(file)
    stored["model"]["ln_vision.bias"] = torch.zeros(3)
    torch.save(stored, file)
    with pytest.raises(BadInput, match=r"ln_vision.bias is \(3,\), not \(176,\)"):
        convert(weights, tmp_path / "out")
    del stored["model"]["ln_vision.bias"]
    torch.save(stored, file)
    with pytest.raises(BadInput, match=r"no file has the weight ln_vision\.bias"):
        convert(weights, tmp_path / "out")


def test_several_vicunas_are_refused(weights, tmp_path):
    (weights / "vicuna-13b").mkdir()
    with pytest.raises(BadInput, match=r"holds 2 vicuna\*"):
        convert(weights, tmp_path / "out")


def test_a_tokenizer_model_without_sentencepiece_is_refused(weights, tmp_path, monkeypatch):
    (weights / "vicuna-7b" / "tokenizer.json").unlink()
    monkeypatch.setattr(minigpt4_convert, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match="pip install sentencepiece"):
        convert(weights, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(weights, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(BadInput, match="already exists"):
        convert(weights, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_full_disk_leaves_nothing(weights, tmp_path, monkeypatch, full_disk):
    # The processor is saved last, when the model is written already.
    monkeypatch.setattr(MiniGPT4Processor, "save_pretrained", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        convert(weights, tmp_path / "folder" / "out")
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_answer_ends_where_the_next_turn_begins(monkeypatch):
    vlm = tiny("minigpt4")
    tokens = vlm.tokenizer("a cup###Human: and this?", add_special_tokens=False)["input_ids"]
    said = lambda **inputs: torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)  # noqa: E731
    monkeypatch.setattr(vlm.model, "generate", said)
    assert vlm.generate([Query("What is it?", image=Image.new("RGB", (24, 24)))]) == ["a cup"]
