"""The sizes: shapes are those of the real classes, work is counted as it runs, and measuring works
on tiny models.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from liveedit.editors.common.attention import Part, similarity
from liveedit.editors.common.extractors import FeatureExtractor, InputExtractor
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.generators import ReleasedGenerator
from liveedit.models.calls import CACHE
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "published"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "sizes"))

import compute
import measure
import page
from backbones import BACKBONES
from estimate import Load, networks
from full import FULL, full

SMALL = LiveEditConfig(module_dim=16, layer=1)
BF16 = torch.bfloat16


def flops(action):
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def load(name):
    return Load(BACKBONES[name], 0, 0, compute.TEXT, compute.ANSWER)


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad)


def look(vlm, side):
    """The image through tower and connector, on the meta device."""
    model = vlm.model
    pixels = meta(1, 3, side, side, dtype=BF16)
    if hasattr(model, "qformer"):
        seen = model.vision_model(pixels).last_hidden_state
        return model.language_projection(
            model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=seen)[0]
        )
    if vlm.model.config.model_type == "qwen_vl":
        return model.model.multi_modal_projector(model.model.vision_tower(pixels))
    return model.get_image_features(pixel_values=pixels)


def climb(vlm, states, layers):
    """``states`` through some layers of the decoder, without a mask."""
    decoder = vlm.decoder
    places = torch.arange(states.shape[1], device="meta")[None]
    more = {}
    if hasattr(decoder, "rotary_embeddings"):
        more = {"position_embeddings": decoder.rotary_embeddings(places, None)}
    elif hasattr(decoder, "rotary_emb"):
        more = {"position_embeddings": decoder.rotary_emb(states, places)}
    for layer in vlm.layers[:layers]:
        out = layer(states, attention_mask=None, **{CACHE: None}, **more)
        states = out[0] if isinstance(out, tuple) else out
    return states


@pytest.fixture(scope="module", params=FULL)
def backbone(request):
    return request.param, full(request.param, "meta")


def test_parameters_are_those_of_the_real_classes(backbone):
    name, vlm = backbone
    shape = BACKBONES[name]
    head = vlm.model.get_output_embeddings().weight
    assert shape.parameters == count(vlm.model)
    assert shape.layer == count(vlm.layers[0])
    untied = head is not vlm.model.get_input_embeddings().weight
    assert shape.decoder == count(vlm.decoder) + untied * head.numel()


@pytest.mark.slow
def test_flops_are_those_of_the_real_classes(backbone):
    name, vlm = backbone
    shape = BACKBONES[name]
    at = load(name)
    pixels = vlm.process_images([Image.new("RGB", (64, 48))])[0]["pixel_values"]
    with torch.no_grad():
        assert flops(lambda: look(vlm, pixels.shape[-1])) == pytest.approx(
            shape.vision.flops, rel=0.01
        )
    states = meta(1, round(at.tokens), shape.width, dtype=BF16, grad=True)
    top = climb(vlm, states, 2)
    assert flops(lambda: climb(vlm, states, 2)) == pytest.approx(
        shape.forward(at.tokens, 2), rel=0.01
    )
    back = flops(lambda: torch.autograd.backward(top.sum()))
    assert back == pytest.approx(shape.forward(at.tokens, 2), rel=0.03)  # of frozen weights


def test_a_row_takes_the_tokens_counted(backbone):
    name, vlm = backbone
    edit = measure.sized(vlm)
    row = vlm.encode([edit])
    image, answer = row.spans[0].image, row.spans[0].answer
    assert image[1] - image[0] == BACKBONES[name].image_tokens
    assert row.labels.shape[1] == load(name).tokens
    assert answer[1] - answer[0] == compute.ANSWER


@pytest.mark.parametrize("name", FULL)
def test_the_flops_of_liveedits_networks(name):
    at = load(name)
    D = BACKBONES[name].width
    N = at.backbone.image_tokens
    prompt = compute.TEXT - compute.ANSWER
    T = round(at.tokens)
    with torch.device("meta"):
        bar = InputExtractor(D, 1024, 8, 4, N)
        hat = FeatureExtractor(D, 1024, 8, 4)
        write = ReleasedGenerator(D, 1024, 8, 4, 5.0)
        image, text, signal = (
            Part(torch.empty(1, n, D), torch.ones(1, n, dtype=torch.bool)) for n in (N, prompt, T)
        )
    own = networks(at)
    edit = flops(
        lambda: (
            hat.vision_key(image, text),
            hat.text_key(text),
            write.expert_in(signal),
            write.expert_out(signal),
        )
    )
    query = flops(lambda: (bar.vision_key_and_sentinel(image, text), bar.text_key(text)))
    assert edit == pytest.approx(own.edit, rel=0.05)
    assert query == pytest.approx(own.query, rel=0.15)
    assert own.writing == count(hat) + count(write)
    assert own.routing == count(bar) + 2 * D
    keys = meta(1000, 4, 1024)
    filtering = flops(lambda: [similarity(meta(1, 4, 1024), keys) for _ in range(2)])
    routed = [work.total("float32") for work in (compute.query(at, 1000), compute.query(at, 2000))]
    assert filtering == routed[1] - routed[0]


def test_the_bytes_of_an_expert_are_those_of_a_bank():
    vlm = tiny("llava")
    bank = LiveEdit(vlm, LiveEditConfig(layer=1)).edit([measure.sized(vlm)]).bank
    b = replace(BACKBONES["llava-1.5-7b"], width=32)
    assert sum(compute.expert(b)) == bank.nbytes
    assert compute.expert(b)[0] == bank["vision_keys"].nbytes + bank["text_keys"].nbytes


def test_floor_and_expectation_by_hand():
    card = compute.Card(memory=80, bandwidth=2, bf16=100, float32=10)
    arithmetic = compute.Phase(flops=2e14, float32=1e13, moved=1e12)
    assert arithmetic.floor(card) == 3  # and moving takes half a second
    assert arithmetic.expected(card) == pytest.approx(3 / compute.MATRICES)
    reading = compute.Phase(flops=1e12, moved=4e12, times=3)
    assert reading.floor(card) == 6
    assert reading.expected(card) == pytest.approx(6 / compute.READING)
    started = compute.Phase(flops=1, layers=40)
    assert started.expected(card) == 40 * compute.STARTING
    work = compute.Work((arithmetic, reading), memory=81e9)
    assert work.milliseconds(card)[0] == 9000
    assert work.total("flops") == 2e14 + 3e12
    assert page.time(work, card) == "too large"


@pytest.mark.parametrize("name", FULL)
def test_more_experts_cost_a_query_no_less(name):
    works = [compute.works(name)[f"query {experts}"] for experts in compute.POOLS]
    for card in compute.CARDS.values():
        times = [work.milliseconds(card) for work in works]
        assert times == sorted(times)
        assert all(floor <= expected for floor, expected in times)
    held = [work.memory for work in works]
    b = BACKBONES[name]
    assert held[2] - held[0] == 100_000 * sum(compute.expert(b))
    assert held[0] > 2 * b.parameters


@pytest.mark.parametrize("family", ["llava", "blip2", "minigpt4", "mplug_owl2", "qwen_vl"])
def test_a_tiny_model_is_measured(family, monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 1)
    vlm = VLM(tiny(family).model, tiny(family).processor, "raw")
    found = measure.measure(vlm, SMALL, pools=(0, 3))
    assert list(found) == ["edit", "query 0", "query 3", "prepare", "step"]
    assert all(taken["ms"] > 0 for taken in found.values())


def test_one_expert_of_a_crowd_acts():
    vlm = tiny("llava")
    editor = LiveEdit(vlm, replace(SMALL, margin=-1e9))
    edit = measure.sized(vlm)
    patch = measure.crowd(editor.edit([edit]), 5)
    assert len(patch) == 5
    batch = vlm.encode([edit])
    with vlm.patched(patch):
        vlm.logits(batch)
    assert [[number for number, _ in row] for row in batch.fired_by(patch)] == [[0]]
    assert len(measure.crowd(patch, 0)) == 0


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The files that measuring writes, in a folder of the test's."""
    monkeypatch.setattr(page, "DOC", tmp_path / "sizes.md")
    monkeypatch.setattr(measure, "MEASURED", tmp_path / "sizes.json")
    return tmp_path / "sizes.json", tmp_path / "sizes.md"


def test_what_was_measured_comes_into_the_page(kept):
    file, doc = kept
    found = {work: {"ms": 12.34, "GB": 15.6} for work in compute.WORK} | {
        "query 100000": None,
        "device": "a GPU",
    }
    measure.keep("llava-1.5-7b", found)
    measure.keep("qwen-vl-7b", found)
    assert list(json.loads(file.read_text())) == ["llava-1.5-7b", "qwen-vl-7b"]
    told = dict(part.split("\n", 1) for part in doc.read_text().split("\n## ")[2:])
    assert set(told) == set(BACKBONES)
    llava = {
        line.split(" | ")[0][2:]: line
        for line in told["llava-1.5-7b"].splitlines()
        if line.startswith("| ")
    }
    assert llava["one edit"].endswith("| 15.6 | 12.3 |")
    assert llava["a query, 100,000 experts"].endswith("| too large | too large |")
    assert "a GPU" in told["qwen-vl-7b"]
    assert told["blip2-opt-2.7b"].count("| not measured yet | not measured yet |") == len(
        compute.WORK
    )


def test_the_page_is_the_one_computed():
    stored = json.loads(page.MEASURED.read_text()) if page.MEASURED.exists() else {}
    assert page.DOC.read_text(encoding="utf-8") == page.page(stored)


def test_the_command_measures_and_keeps(kept, monkeypatch, capsys):
    monkeypatch.setattr(measure, "gpu", lambda: "a GPU")
    monkeypatch.setattr(measure, "full", lambda name, device: tiny("llava"))
    monkeypatch.setattr(measure, "LiveEditConfig", lambda: SMALL)
    monkeypatch.setattr(measure, "REPEATS", 1)
    assert measure.main(["llava-1.5-7b"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(
        compute.WORK.values()
    )
    stored = json.loads(kept[0].read_text())["llava-1.5-7b"]
    assert stored.pop("device").startswith("a GPU, torch")
    assert list(stored) == list(compute.WORK)


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.main(["llava-1.5-7b"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: there is no GPU here: run this on a machine with one"
    ]
