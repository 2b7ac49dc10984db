"""Qwen-VL against the authors' code, recorded on the same weights, by way of the converter."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.models.calls import CACHE
from liveedit.models.families.qwen_vl.convert import convert
from liveedit.models.families.qwen_vl.modeling import QwenVLConfig, QwenVLForConditionalGeneration
from liveedit.models.vlm import EMBEDDINGS, VLM
from liveedit.types import Query

FOLDER = Path(__file__).parents[3] / "assets" / "parity" / "qwen_vl"
GOLDEN = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
TENSORS = load_file(FOLDER / "golden.safetensors")
IMAGES = [Image.fromarray(pixels.numpy()) for pixels in TENSORS["images"]]
ROWS = [row | {"logits": TENSORS[f"logits_{number}"]} for number, row in enumerate(GOLDEN["rows"])]
RAW = [row for row in ROWS if row["format"] == "raw" and len(row["images"]) < 2]
"""Of 5, 48 and 33 tokens, for a model pretrained on 24."""


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    out = tmp_path_factory.mktemp("qwen_vl") / "converted"
    convert(FOLDER, out)
    return VLM.load(out, dtype=torch.float32)


@pytest.fixture(scope="module")
def raw(chat):
    return VLM(chat.model, chat.processor, "raw")


def query(row):
    return Query(row["prompt"], image=[IMAGES[index] for index in row["images"]])


def inputs(vlm, row):
    pictures = [vlm.process_images([IMAGES[index]])[0] for index in row["images"]]
    return {"input_ids": torch.tensor([row["input_ids"]]), **vlm.join(pictures)}


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", ROWS, ids=["text", "long text", "image", "chat", "two images"])
def test_logits_and_greedy_tokens_are_the_authors(chat, row):
    given = inputs(chat, row)
    close(chat.model(**given).logits[0], row["logits"])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    tokens = chat.model.generate(
        **given, attention_mask=torch.ones_like(given["input_ids"]), **settings
    )
    assert tokens[0, -6:].tolist() == row["greedy"]


def test_the_default_size_is_that_of_the_released_weights():
    with torch.device("meta"):
        model = QwenVLForConditionalGeneration(QwenVLConfig())
    assert (
        sum(parameter.numel() for parameter in model.parameters()) * 2 == 19_313_870_336
    )  # bytes, by their index


def test_eager_attention_gives_the_same(chat):
    given = inputs(chat, ROWS[3])
    chat.model.set_attn_implementation("eager")
    logits = chat.model(**given).logits[0]
    chat.model.set_attn_implementation("sdpa")
    close(logits, ROWS[3]["logits"])


@pytest.mark.parametrize("row", ROWS, ids=["text", "long text", "image", "chat", "two images"])
def test_prompts_are_the_authors(chat, raw, row):
    vlm = chat if row["format"] == "chat" else raw
    assert vlm.encode([query(row)]).inputs["input_ids"].tolist() == [row["input_ids"]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_within_and_beyond_the_pretrained_length_give_their_own_logits(raw, side):
    batch = raw.encode([query(row) for row in RAW], padding_side=side)
    for logits in (
        raw.logits(batch),
        *(raw.resume(at, raw.hidden(batch, at)) for at in (EMBEDDINGS, 0)),
    ):
        for one, row, span in zip(logits, RAW, batch.spans, strict=True):
            close(one[span.start : span.stop], row["logits"])


def test_a_batch_generates_beyond_the_pretrained_length_as_rows_do(raw):
    batch = raw.encode([query(row) for row in RAW], padding_side="left")
    tokens = raw.model.generate(
        **batch.inputs, max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    assert tokens[:, -6:].tolist() == [row["greedy"] for row in RAW]


def test_two_texts_in_turn_keep_their_own_rotary_base(raw):
    caches = [None, None]
    steps = [inputs(raw, row) for row in RAW[:2]]
    found = [[], []]
    for _ in range(6):
        for index in (0, 1):
            output = raw.model(**steps[index], **{CACHE: caches[index]}, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
            caches[index] = getattr(output, CACHE)
            steps[index] = {"input_ids": token}
            found[index].append(int(token))
    assert found == [row["greedy"] for row in RAW[:2]]


def test_the_model_returns_the_loss_and_the_last_logits(raw):
    batch = raw.encode([Query("What is this?", "a film")])
    logits = raw.logits(batch)
    output = raw.model(**batch.inputs, labels=batch.labels, logits_to_keep=0)
    wanted = batch.labels[0, batch.labels[0] != -100]
    expected = torch.nn.functional.cross_entropy(logits[batch.answer_positions()], wanted)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(raw.model(**batch.inputs, logits_to_keep=1).logits, logits[:, -1:])


def test_too_few_image_tokens_are_refused(raw):
    given = inputs(raw, ROWS[2])
    given["input_ids"] = given["input_ids"][:, :10]
    with pytest.raises(ValueError, match="image tokens for 1 images: each takes 9"):
        raw.model(**given)


@pytest.mark.parametrize(("text", "ids"), GOLDEN["texts"], ids=range(len(GOLDEN["texts"])))
def test_texts_have_the_authors_tokens(chat, text, ids):
    assert chat.tokenizer(text)["input_ids"] == ids


def test_tokens_have_the_authors_texts(chat):
    for ids, text in GOLDEN["decoded"]:
        assert chat.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_pictures_are_counted_anew_in_each_message(chat):
    first = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is older?"}]
    turns = [{"role": "user", "content": first}, {"role": "assistant", "content": "The first."}]
    turns.append(
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]}
    )
    mark = "<img><imgpad></img>\n"
    assert chat.processor.apply_chat_template(turns, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nPicture 1: {mark}Picture 2: {mark}Which is older?<|im_end|>\n"
        "<|im_start|>assistant\nThe first.<|im_end|>\n"
        f"<|im_start|>user\nPicture 1: {mark}And this?<|im_end|>\n<|im_start|>assistant\n"
    )
