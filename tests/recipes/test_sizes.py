"""The sizes: shapes are those of the real classes, work is counted as it runs, and measuring works
on tiny models.
"""

import json
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from liveedit.editors.common.attention import Part, similarity
from liveedit.editors.common.extractors import FeatureExtractor, InputExtractor
from liveedit.editors.common.sketch import SLAB
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.experts import TOGETHER
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
from crowd import EACH, NEAR, OWN, Crowd
from estimate import Load, networks
from full import FULL, full
from targets import TARGETS

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


def test_edits_at_once_cost_less_than_one_by_one():
    works = compute.works("llava-1.5-7b")
    one, many = works["edit"], works["edits"]
    assert many.total("flops") == compute.EDITS * one.total("flops")
    assert many.total("float32") == pytest.approx(compute.EDITS * one.total("float32"))
    assert many.total("moved") == compute.EDITS // TOGETHER * one.total("moved")
    assert many.memory > one.memory


def test_the_search_of_a_store_is_counted_as_it_runs():
    vlm = tiny("llava")
    crowd = Crowd(LiveEdit(vlm, replace(SMALL, module_dim=128)), measure.sized(vlm))
    bank = crowd.stored(1000).bank
    query = crowd.along[None]
    with FlopCounterMode(display=False) as counter:
        left = bank.near("vision_keys", query, torch.ones(1))
    basis = bank.keys._buffer.sketches["vision_keys"].basis
    width = basis.shape[1] + 1
    assert counter.get_total_flops() == 2 * (width * 1000 + 2 * basis.numel())
    [keys] = bank.gather(["vision_keys"], left)
    searched = compute.searching(BACKBONES["llava-1.5-7b"], 1000)
    sketches = 1000 * 4 * (compute.DIRECTIONS + 1)
    per_key = (searched.moved - sketches) / (1000 / EACH)
    assert per_key * 512 / 4096 == keys[0].nbytes


def test_the_memory_of_a_store_is_that_of_its_bank():
    vlm = tiny("llava")
    editor = LiveEdit(vlm, replace(SMALL, module_dim=128))
    bank = Crowd(editor, measure.sized(vlm)).stored(1000).bank
    buffer = bank.keys._buffer
    sketches = [sketch._columns for sketch in buffer.sketches.values()]
    assert all(len(columns) == compute.DIRECTIONS + 1 for columns in sketches)
    b = replace(BACKBONES["llava-1.5-7b"], width=32)
    whole = compute.in_memory(b, 1000)
    keys = buffer.tensors["vision_keys"].nbytes
    assert sum(columns.nbytes for columns in sketches) + 8 * keys == whole


@pytest.mark.parametrize("family", ["llava", "blip2", "minigpt4", "mplug_owl2", "qwen_vl"])
def test_a_tiny_model_is_measured(family, monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 1)
    vlm = VLM(tiny(family).model, tiny(family).processor, "raw")
    monkeypatch.setattr(measure, "ROUNDS", 1)
    found = measure.measure(vlm, SMALL, pools=(0, 3), stored=300)
    queries = ["query 0", "query 3", "query 300"]
    assert list(found) == ["edit", "edits", *queries, "prepare", "step"]
    assert all(taken["ms"] > 0 for taken in found.values())
    assert [work for work in found if "ratio" in found[work]] == queries[1:]


def test_ratios_are_of_runs_in_turn(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 3)
    order = []
    lasts = {"plain": 0.01, "edited": 0.05}

    def run(name):
        order.append(name)
        time.sleep(lasts[name])

    found = measure.taken(partial(run, "edited"), torch.device("cpu"), partial(run, "plain"))
    assert order == ["edited", *["plain", "edited"] * 3]
    assert found["ms"] >= 50
    assert 2 < found["ratio"] < 5.5


@pytest.mark.parametrize("kind", ["resident", "stored"])
@pytest.mark.parametrize("experts", [2, 5000])
def test_one_expert_of_a_crowd_acts(kind, experts):
    vlm = tiny("llava")
    editor = LiveEdit(vlm, replace(SMALL, module_dim=128))
    edit = measure.sized(vlm)
    crowd = Crowd(editor, edit)
    patch = getattr(crowd, kind)(experts)
    assert len(patch) == experts
    batch = vlm.encode([replace(edit, target="")])
    plain = vlm.logits(batch)
    with vlm.patched(patch):
        edited = vlm.logits(batch)
    assert [[number for number, _ in row] for row in batch.fired_by(patch)] == [[OWN]]
    with vlm.patched(editor.edit([edit]).with_bank(crowd.resident(2).bank.select([OWN]))):
        torch.testing.assert_close(edited, vlm.logits(batch))
    assert not torch.equal(plain, edited)


@pytest.mark.parametrize("kind", ["resident", "stored"])
def test_as_many_of_a_crowd_are_compared_exactly_as_is_said(kind):
    vlm = tiny("llava")
    crowd = Crowd(LiveEdit(vlm, replace(SMALL, module_dim=128)), measure.sized(vlm))
    bank = getattr(crowd, kind)(5000).bank
    left = bank.near("vision_keys", crowd.along[None], torch.ones(1))
    slabs = [range(start + EACH - 1, min(start + SLAB, 5000), EACH) for start in (0, SLAB)]
    assert left.tolist() == [OWN, *slabs[0], *slabs[1]]
    [keys] = bank.gather(["vision_keys"], left)
    lengths = keys.flatten(1).float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((len(left),), NEAR), atol=1e-3, rtol=0)
    assert ((keys.flatten(1).float() @ crowd.along) > 1).tolist() == [True] + (len(left) - 1) * [
        False
    ]


def test_a_store_holds_the_keys_that_memory_holds():
    vlm = tiny("llava")
    crowd = Crowd(LiveEdit(vlm, SMALL), measure.sized(vlm))
    memory, store = crowd.resident(4100).bank, crowd.stored(4100).bank
    places = torch.tensor([0, 7, 4095, 4096, 4099])
    [held], [read] = (bank.gather(["vision_keys"], places) for bank in (memory, store))
    assert torch.equal(held, read)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The files that measuring writes, in a folder of the test's."""
    monkeypatch.setattr(page, "DOC", tmp_path / "sizes.md")
    monkeypatch.setattr(measure, "MEASURED", tmp_path / "sizes.json")
    return tmp_path / "sizes.json", tmp_path / "sizes.md"


def told_of(doc):
    """The rows of each section of a page by their first cells."""
    sections = {}
    for part in doc.read_text().split("\n## ")[1:]:
        title, text = part.split("\n", 1)
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        sections[title] = {line.split(" | ")[0][2:]: line for line in lines}
    return sections


def test_what_was_measured_comes_into_the_page(kept):
    file, doc = kept
    works = {work: {"ms": 12.34, "GB": 15.6, "ratio": 1.04} for work in compute.WORK}
    works["query 100000"] = None
    slower = works | {"edits": {"ms": 400, "GB": 1}}
    measure.keep("llava-1.5-7b", {"device": "a GPU", "float32": works})
    measure.keep("qwen-vl-7b", {"device": "a GPU", "float32": works, "TF32": slower})
    assert list(json.loads(file.read_text())) == ["llava-1.5-7b", "qwen-vl-7b"]
    told = told_of(doc)
    assert set(told) == {"Targets", "100,000 experts", *BACKBONES}
    assert told["llava-1.5-7b"]["one edit"].endswith("| 15.6 | 12.3 | not measured yet |")
    assert told["qwen-vl-7b"]["32 edits at once"].endswith("| 15.6 | 12.3 | 400.0 |")
    assert told["qwen-vl-7b"]["a query, 100,000 experts"].endswith(" | too large" * 4 + " |")
    assert "a GPU" in doc.read_text().split("\n## qwen-vl-7b")[1]
    assert all(
        line.endswith(" | not measured yet" * 3 + " |")
        for work, line in told["blip2-opt-2.7b"].items()
        if work in compute.WORK.values()
    )
    assert "have not been compared yet" in doc.read_text()


def test_the_page_tells_which_targets_are_met(kept):
    _, doc = kept
    works = {work: {"ms": 39.0, "GB": 15.6, "ratio": 1.04} for work in compute.WORK}
    works["query 1000000"] = {"ms": 300, "GB": 30, "ratio": 1.06}
    works["query 100000"] = None
    slower = works | {"edit": {"ms": 41.0, "GB": 1}, "edits": {"ms": 400.0, "GB": 1}}
    found = {"device": "a GPU", "float32": works, "TF32": slower, "alike": 7, "asked": 9}
    measure.keep("llava-1.5-7b", found)
    told = told_of(doc)["Targets"]
    assert len(told) == 2 + len(TARGETS)
    ends = {work: line.split(" | ")[3:] for work, line in told.items()}
    assert [cell.split(", ")[0] for cell in ends["one edit"]] == ["39 ms", "41 ms"]
    assert [cell.split(", ")[0] for cell in ends["32 edits at once"]] == [
        "821 edits a second",
        "80 edits a second",
    ]
    reached = {work: [" MISSED" in cell for cell in cells] for work, cells in ends.items()}
    assert reached["one edit"] == reached["32 edits at once"] == [False, True]
    assert reached["a query, 1,000 experts"] == [False, False]
    assert reached["a query, 1,000,000 experts in a store"] == [True, True]
    assert ends["a query, 100,000 experts"][0] == "too large"
    assert "were alike for 7 of 9 questions" in doc.read_text()


def test_the_page_is_the_one_computed():
    stored = json.loads(page.MEASURED.read_text()) if page.MEASURED.exists() else {}
    assert page.DOC.read_text(encoding="utf-8") == page.page(stored)


def test_the_command_measures_and_keeps(kept, monkeypatch, capsys):
    monkeypatch.setattr(measure, "gpu", lambda: "a GPU")
    monkeypatch.setattr(measure, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(measure, "full", lambda name, device: tiny("llava"))
    monkeypatch.setattr(measure, "LiveEditConfig", lambda: SMALL)
    monkeypatch.setattr(measure, "CASES", 1)
    for name in ("REPEATS", "ROUNDS"):
        monkeypatch.setattr(measure, name, 1)
    small = partial(measure.measure, pools=(0, 100), stored=300)
    renamed = {"query 100": "query 1000", "query 300": "query 1000000"}

    def measured(vlm, config):
        found = {renamed.get(work, work): taken for work, taken in small(vlm, config).items()}
        return found | {"query 100000": None}

    monkeypatch.setattr(measure, "measure", measured)
    before = torch.get_float32_matmul_precision()
    try:
        assert measure.main(["llava-1.5-7b"]) == 0
    finally:
        torch.set_float32_matmul_precision(before)
    *lines, last = capsys.readouterr().out.splitlines()
    works = [line.partition(":")[0].rsplit(", ", 1) for line in lines]
    assert {precision for _, precision in works} == {"float32", "TF32"}
    assert {work for work, _ in works} == set(compute.WORK.values())
    assert len(works) == 2 * len(compute.WORK)
    assert sum("target at" in line for line in lines) == 2 * len(TARGETS)
    assert re.fullmatch(r"answers of .* alike in both: \d+ of \d+", last)
    stored = json.loads(kept[0].read_text())["llava-1.5-7b"]
    assert stored["device"].startswith("a GPU, torch")
    assert set(stored["TF32"]) == set(stored["float32"]) == set(compute.WORK)
    assert 0 < stored["alike"] <= stored["asked"]


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.main(["llava-1.5-7b"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: there is no GPU here: run this on a machine with one"
    ]
