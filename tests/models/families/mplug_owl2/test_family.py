"""mPLUG-Owl2 against what its authors' code computed on a small random model, recorded in
tests/assets/parity/mplug_owl2.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.errors import UnsupportedModel
from liveedit.models.families.mplug_owl2.convert import convert
from liveedit.models.vlm import VLM
from liveedit.types import Query

FOLDER = (
    Path(os.environ.get("LIVEEDIT_PARITY_DIR", Path(__file__).parents[3] / "assets" / "parity"))
    / "mplug_owl2"
)
GOLDEN = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
LAYER = 1
IMAGE = -200
"""The authors' id of the image token, which stands for all of an image's."""


@pytest.fixture(scope="module")
def owls(tmp_path_factory):
    """The model by prompt format."""
    folder = tmp_path_factory.mktemp("owl") / "converted"
    convert(FOLDER, folder)
    chat = VLM.load(folder, dtype=torch.float32)
    return {"chat": chat, "raw": VLM(chat.model, chat.processor, "raw")}


@pytest.fixture(scope="module")
def recorded():
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def images(recorded):
    return [Image.fromarray(recorded[f"image_{number}"].numpy()) for number in range(3)]


def numbered(form):
    """The recorded queries of a prompt format, with their numbers."""
    return [(at, row) for at, row in enumerate(GOLDEN["queries"]) if row["format"] == form]


def query(row, images):
    return Query(
        row["prompt"], row["target"], [images[number] for number in row["images"]], about=None
    )


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_texts_are_read_as_the_authors_read_them(owls):
    texts = [*GOLDEN["texts"], *((row["text"], row["prompt_ids"]) for row in GOLDEN["queries"])]
    token = owls["chat"].image_token_id
    for text, ids in texts:
        got = owls["chat"].token_ids([text])[0]
        assert [IMAGE if each == token else each for each in got] == ids, text


def test_images_are_read_as_the_authors_read_them(owls, images, recorded):
    for image, pixels in zip(images, recorded["pixel_values"], strict=True):
        close(owls["chat"].process_images([image])[0]["pixel_values"][0], pixels)


@pytest.mark.parametrize("form", ["chat", "raw"])
def test_prompts_are_the_authors(owls, images, form):
    for _, row in numbered(form):
        assert owls[form].render(query(row, images)) == row["text"]
        batch = owls[form].encode([query(row, images)])
        ids = batch.inputs["input_ids"][0].tolist()
        start, stop = batch.spans[0].image
        assert stop - start == 9 * len(row["images"])
        assert [*ids[:start], *[IMAGE] * len(row["images"]), *ids[stop:]] == row["input_ids"]


@pytest.mark.parametrize("form", ["chat", "raw"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_hidden_states_are_the_authors(owls, images, recorded, form, side):
    rows = numbered(form)
    batch = owls[form].encode([query(row, images) for _, row in rows], padding_side=side)
    logits = owls[form].logits(batch)
    hidden = owls[form].hidden(batch, LAYER).hidden
    for (at, _), span, *values in zip(rows, batch.spans, logits, hidden, strict=True):
        for value, name in zip(values, ("logits", "hidden"), strict=True):
            close(value[span.start : span.stop], recorded[f"q{at}.{name}"])


def test_two_images_in_one_prompt_give_the_authors_logits(owls, images, recorded):
    at, row = next((at, row) for at, row in enumerate(GOLDEN["queries"]) if len(row["images"]) == 2)
    shown = [images[number] for number in row["images"]]
    inputs = owls["chat"].processor(shown, f"{row['text']} {row['target']}", return_tensors="pt")
    close(owls["chat"].model(**inputs).logits[0], recorded[f"q{at}.logits"])


@pytest.mark.parametrize("row", GOLDEN["queries"], ids=lambda row: row["text"])
def test_greedy_answers_are_the_authors(owls, images, row):
    model = owls["chat"].model
    shown = [images[number] for number in row["images"]] or None
    inputs = owls["chat"].processor(shown, row["text"], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert tokens[0, inputs["input_ids"].shape[1] :].tolist() == row["generated"]


def test_the_layers_above_know_the_image_tokens(owls, images):
    rows = [row for _, row in numbered("chat")]
    batch = owls["chat"].encode([query(row, images) for row in rows])
    hidden = owls["chat"].hidden(batch, LAYER)
    positions = hidden.position_ids.clone()
    positions[1] = 0
    hidden.position_ids = positions
    change = (owls["chat"].resume(LAYER, hidden) - owls["chat"].logits(batch)).abs().amax((1, 2))
    assert [float(each) > 0.01 for each in change] == [bool(row["images"]) for row in rows]


def test_a_call_that_hides_its_tokens_is_refused(owls):
    with pytest.raises(ValueError, match="needs input_ids"):
        owls["chat"].model(inputs_embeds=torch.zeros(1, 4, owls["chat"].hidden_size))


def test_the_authors_own_checkpoint_is_refused():
    with pytest.raises(
        UnsupportedModel, match=r"for its authors' code: .* `liveedit models convert mplug_owl2"
    ):
        VLM.load(FOLDER)
