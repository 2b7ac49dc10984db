"""What every family must do, whatever its prompt, its image inputs and its positions look like."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models import FAMILIES
from liveedit.models.batch import HiddenBatch
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.models.vlm import EMBEDDINGS, VLM
from liveedit.types import Query

LAYER = 1
TINY = {family: family for family in ("llava", "minigpt4", "mplug_owl2", "qwen2_vl", "qwen_vl")} | {"blip-2": "blip2"}
VISION = {
    "llava": "model.vision_tower",
    "blip-2": "vision_model",
    "minigpt4": "vision_model",
    "mplug_owl2": "model.vision_tower",
    "qwen2_vl": "model.visual",
    "qwen_vl": "model.vision_tower",
}
ASKED = {"qwen2_vl": "<|im_end|>\n<|im_start|>assistant\n", "mplug_owl2": " ASSISTANT: "}  # after a prompt in a chat


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


WIDE, SQUARE = picture(0, 60, 40), picture(1, 30, 30)
QUERIES = [
    Query("What is the country with this flag?", "Japan", WIDE),
    Query("who sang the song that was the title of the movie", "Elvis Presley"),
    Query("Which film is represented in this image?", "Casablanca", SQUARE),
    Query("What is the name of the film? ", " Gone with the Wind\n", WIDE),
]


FAMILY = ["llava", "blip-2", "minigpt4 in raw prompts", "mplug_owl2", "mplug_owl2 in raw prompts"]
FAMILY += ["qwen2_vl", "qwen2_vl in raw prompts", "qwen_vl"]


@pytest.fixture(scope="module", params=FAMILY)
def vlm(request):
    made = tiny(TINY[request.param.split()[0]])
    made = VLM(made.model, made.processor, "raw") if "raw" in request.param else made
    made.logits(made.encode(QUERIES))  # transformers puts hooks of its own on a vision tower when it first runs
    return made


@pytest.fixture(scope="module")
def batch(vlm):
    return vlm.encode(QUERIES)


class Routed(Patch):
    """Like a routed expert: reads image and prompt when it first sees the site, acts on every token from then on."""

    def __init__(self, layer=2, scale=4.0, site="layers.{}"):
        self.site, self.scale, self.bound, self.seen = site.format(layer), scale, 0, []

    def __len__(self):
        return 1

    def bind(self, batch):
        self.bound += 1
        state = {}

        def act(states):
            self.seen.append(tuple(states.shape))
            if not state:
                rows = zip(states, batch.spans, strict=True)
                parts = [(row[slice(*span.image)].sum(0), row[slice(*span.prompt)].mean(0)) for row, span in rows]
                state["keys"] = torch.stack([image + prompt for image, prompt in parts])[:, None]
            return states + self.scale * torch.roll(state["keys"], 1, -1)

        return {self.site: act}


class Weights(Patch):
    def __init__(self, values):
        self.values = values

    def weights(self):
        return self.values


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        name: ([list(getattr(module, kind)) for kind in kinds], vars(module).get("forward"))
        for name, module in model.named_modules()
    }


def parameters(model):
    return {name: (id(value), value.clone()) for name, value in model.named_parameters(remove_duplicate=False)}


@contextlib.contextmanager
def unchanged(vlm, batch):
    model = vlm.model
    logits, held, hooked = vlm.logits(batch), parameters(model), hooks(model)
    yield
    assert hooks(model) == hooked
    after = parameters(model)
    assert list(after) == list(held)
    for name, (identity, value) in held.items():
        assert after[name][0] == identity, name
        assert torch.equal(after[name][1], value), name
        assert isinstance(model.get_parameter(name), nn.Parameter)
    assert torch.equal(vlm.logits(batch), logits)
    assert vlm.patches == []
    assert vlm.announced is None


@contextlib.contextmanager
def running(model):
    """The names of all modules that run meanwhile."""
    names, handles = set(), []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: names.add(name)))
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def close(one, other, tolerance=2e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def real(values, spans):
    """The tokens of each row that are not padding."""
    return [row[span.start : span.stop] for row, span in zip(values, spans, strict=True)]


def greedy(vlm, query, steps):
    """Teacher-forced generation: the whole text anew for every token."""
    batch = vlm.encode([replace(query, target="")])
    tokens = []
    for _ in range(steps):
        token = vlm.logits(batch)[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(token))
        batch = batch.extended(token)
    return tokens


def cut(vlm, tokens):
    """Up to the end of text, as a stripped string."""
    end = vlm.model.generation_config.eos_token_id
    tokens = tokens[: tokens.index(end)] if end in tokens else tokens
    return vlm.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def raw_generate(vlm, batch, steps):
    tokens = vlm.model.generate(**batch.inputs, max_new_tokens=steps, do_sample=False, pad_token_id=vlm.pad_token_id)
    return tokens[:, batch.labels.shape[1] :]


# Encoding


def test_spans_partition_the_real_tokens(vlm):
    for side in ("left", "right"):
        batch = vlm.encode(QUERIES, padding_side=side)
        for mask, span in zip(batch.inputs["attention_mask"], batch.spans, strict=True):
            parts = [span.before, span.image, span.prompt, span.answer]
            covered = [index for start, stop in parts for index in range(start, stop)]
            assert covered == mask.nonzero().flatten().tolist()


def test_image_span_holds_the_image_tokens(vlm, batch):
    marks = vlm.image_tokens(batch.inputs["input_ids"])
    for query, mark, span in zip(QUERIES, marks, batch.spans, strict=True):
        assert mark.nonzero().flatten().tolist() == list(range(*span.image))
        assert (span.image[0] < span.image[1]) == (query.image is not None)
        if query.image is None:
            assert span.before == span.image == (span.start, span.start)


def test_labels_cover_exactly_the_answer(vlm, batch):
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        answer = slice(*span.answer)
        assert (batch.labels[row] != -100).nonzero().flatten().tolist() == list(range(*span.answer))
        assert torch.equal(batch.labels[row, answer], batch.inputs["input_ids"][row, answer])
        assert vlm.tokenizer.decode(batch.labels[row, answer]).strip() == query.target.strip()


def test_one_blank_between_prompt_and_target(vlm, batch):
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        text = vlm.tokenizer.decode(batch.inputs["input_ids"][row, span.start : span.stop])
        if vlm.prompt_format == "raw":
            assert text.endswith(f"{query.prompt.strip()} {query.target.strip()}")
        else:
            between = ASKED[vlm.model.config.model_type]
            assert text.endswith(f"{query.prompt.strip()}{between}{query.target.strip()}")


def test_encodes_as_the_processor_does(vlm):
    images = [query.image for query in QUERIES if query.image is not None]
    for query in QUERIES:
        ours = vlm.encode([replace(query, target="")])
        images = None if query.image is None else [query.image]
        theirs = vlm.processor(images=images, text=[vlm.render(query)], return_tensors="pt")
        for name, value in theirs.items():
            assert torch.equal(ours.inputs[name], value), name


def test_several_images_in_one_batch(vlm, batch):
    pictured = [query for query in QUERIES if query.image is not None]
    parts = [vlm.encode([query]).inputs for query in pictured]
    for name in set(batch.inputs) - {"input_ids", "attention_mask", "mm_token_type_ids"}:
        assert torch.equal(batch.inputs[name], torch.cat([part[name] for part in parts])), name


def test_every_image_is_processed_once(vlm, monkeypatch):
    calls, picture = [], vlm.picture
    monkeypatch.setattr(vlm, "picture", lambda image: calls.append(image) or picture(image))
    vlm.encode(QUERIES)
    assert len(calls) == 2


def test_image_from_a_path(vlm, tmp_path):
    WIDE.save(tmp_path / "flag.png")
    one, other = (vlm.encode([replace(QUERIES[0], image=image)]) for image in (WIDE, tmp_path / "flag.png"))
    for name, value in one.inputs.items():
        assert torch.equal(value, other.inputs[name])


def test_without_target_there_is_no_answer(vlm):
    batch = vlm.encode([replace(QUERIES[0], target=""), QUERIES[1]], eos=True)
    span = batch.spans[0]
    assert span.answer == (span.stop, span.stop)
    assert (batch.labels[0] == -100).all()
    assert not batch.answer_positions()[0].any()


def test_prompt_is_the_same_with_and_without_target(vlm):
    for query in QUERIES:
        full, asked = vlm.encode([query]), vlm.encode([replace(query, target="")])
        stop = full.spans[0].prompt[1]
        assert asked.spans[0].prompt == full.spans[0].prompt
        assert torch.equal(full.inputs["input_ids"][:, :stop], asked.inputs["input_ids"])


def test_eos_is_part_of_the_answer(vlm, batch):
    ended = vlm.encode(QUERIES, eos=True)
    for row, (short, long) in enumerate(zip(batch.spans, ended.spans, strict=True)):
        assert long.answer == (short.answer[0], short.answer[1] + 1)
        assert int(ended.labels[row, long.answer[1] - 1]) == vlm.tokenizer.eos_token_id


def test_answer_positions_are_one_to_the_left(vlm, batch):
    positions = batch.answer_positions()
    for row, span in enumerate(batch.spans):
        expected = list(range(span.answer[0] - 1, span.answer[1] - 1))
        assert positions[row].nonzero().flatten().tolist() == expected


def test_placeholder_in_a_prompt_is_refused(vlm):
    placeholder = vlm.tokenizer.decode([vlm.image_token_id])
    for query in (Query(f"What is {placeholder}?"), Query("What?", f"a {placeholder}", WIDE)):
        with pytest.raises(BadInput, match="holds the image placeholder"):
            vlm.encode([query])


def test_no_query_is_refused(vlm):
    with pytest.raises(BadInput, match="no query"):
        vlm.encode([])
    assert vlm.generate([]) == []


def test_broken_image_is_refused(vlm, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"broken\.png is not an image"):
        vlm.encode([Query("What?", image=tmp_path / "broken.png")])


# Forward


def test_rows_are_equal_alone_and_in_a_mixed_batch_on_either_side(vlm):
    alone = [vlm.logits(vlm.encode([query]))[0] for query in QUERIES]
    for side in ("left", "right"):
        batch = vlm.encode(QUERIES, padding_side=side)
        for one, other in zip(alone, real(vlm.logits(batch), batch.spans), strict=True):
            close(one, other)


def test_a_batch_of_text_alone(vlm):
    texts = [QUERIES[1], Query("What is the name?", "film")]
    batch = vlm.encode(texts)
    mixed = vlm.encode([*texts, QUERIES[0]])
    rows = zip(real(vlm.logits(batch), batch.spans), real(vlm.logits(mixed)[:2], mixed.spans[:2]), strict=True)
    for one, other in rows:
        close(one, other)


def test_the_image_matters(vlm):
    one, other = (vlm.logits(vlm.encode([replace(QUERIES[0], image=image)]))[0, -1] for image in (WIDE, SQUARE))
    assert (one - other).abs().max() > 0.01


def test_hidden_is_the_layers_output_and_stops_there(vlm, batch):
    outputs = []
    with vlm.layers[LAYER].register_forward_hook(lambda _m, _a, output: outputs.append(output)):
        vlm.logits(batch)
    with running(vlm.model) as names:
        hidden = vlm.hidden(batch, LAYER)
    assert torch.equal(hidden.hidden, outputs[0])
    assert hidden.hidden.shape == (len(QUERIES), batch.labels.shape[1], vlm.hidden_size)
    ran = {f"{vlm.decoder_path}.layers.{layer}" in names for layer in range(LAYER + 1)}
    assert ran == {True}
    assert not any(f"{vlm.decoder_path}.layers.{layer}" in names for layer in range(LAYER + 1, vlm.num_layers))
    assert hidden.position_ids is batch.position_ids


def test_resume_continues_where_hidden_stopped(vlm):
    for side in ("left", "right"):
        batch = vlm.encode(QUERIES, padding_side=side)
        logits = vlm.logits(batch)
        for layer in range(vlm.num_layers):
            close(vlm.resume(layer, vlm.hidden(batch, layer)), logits)


def test_what_goes_into_the_first_layer_can_be_had_and_gone_on_with(vlm, batch):
    embedded = vlm.hidden(batch, EMBEDDINGS)
    ids = batch.inputs["input_ids"]
    text = ~vlm.image_tokens(ids) & batch.inputs["attention_mask"].bool()
    assert torch.equal(embedded.hidden[text], vlm.model.get_input_embeddings()(ids)[text])
    real = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(vlm.resume(EMBEDDINGS, embedded)[real], vlm.logits(batch)[real], rtol=1e-4, atol=1e-4)
    for row, query in enumerate(QUERIES):
        if query.image is not None:
            states = embedded.hidden[row, slice(*batch.spans[row].image)]
            torch.testing.assert_close(vlm.image_states(query.image), states)


def test_text_alone_goes_into_the_first_layer(vlm):
    batch = vlm.encode([Query("Who sang it?", "Nobody")])
    torch.testing.assert_close(vlm.resume(EMBEDDINGS, vlm.hidden(batch, EMBEDDINGS)), vlm.logits(batch))


def test_resume_runs_neither_vision_nor_the_layers_below(vlm, batch):
    hidden = vlm.hidden(batch, LAYER)
    with running(vlm.model) as names:
        vlm.resume(LAYER, hidden)
    assert not any(name.startswith(VISION[vlm.model.config.model_type]) for name in names)
    assert not any(name.startswith(f"{vlm.decoder_path}.layers.{layer}.") for name in names for layer in (0, LAYER))
    assert any(name.startswith(f"{vlm.decoder_path}.layers.{LAYER + 1}.") for name in names)


def test_resume_at_positions(vlm, batch):
    hidden, positions = vlm.hidden(batch, LAYER), batch.answer_positions()
    close(vlm.resume(LAYER, hidden, positions), vlm.logits(batch)[positions])
    assert vlm.resume(LAYER, hidden, positions).shape[0] == int((batch.labels != -100).sum())


def test_resume_is_differentiable(vlm, batch):
    hidden = vlm.hidden(batch, LAYER)
    leaf = hidden.hidden.clone().requires_grad_()
    vlm.resume(LAYER, replace(hidden, hidden=leaf), batch.answer_positions()).logsumexp(-1).sum().backward()
    assert leaf.grad.isfinite().all()
    for gradient, span in zip(leaf.grad, batch.spans, strict=True):
        assert gradient[span.start : span.answer[1] - 1].abs().amax(-1).min() > 0


def test_rows_of_hidden_can_be_mixed_anew(vlm, batch):
    rows = vlm.hidden(batch, LAYER).rows()
    order = [2, 0, 3, 1]
    stacked = HiddenBatch.stack([rows[index] for index in order])
    logits = real(vlm.logits(batch), batch.spans)
    for index, row in zip(order, real(vlm.resume(LAYER, stacked), stacked.spans), strict=True):
        close(row, logits[index])
    close(vlm.resume(LAYER, rows[1])[0], logits[1])


def test_a_layer_that_does_not_exist_is_refused(vlm, batch):
    hidden = vlm.hidden(batch, 0)
    for layer in (-2, vlm.num_layers):
        with pytest.raises(BadInput, match=f"no layer {layer}"):
            vlm.hidden(batch, layer)
        with pytest.raises(BadInput, match=f"no layer {layer}"):
            vlm.resume(layer, hidden)


def test_the_model_is_frozen(vlm, batch):
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    assert not vlm.model.training
    assert not vlm.logits(batch).requires_grad


# Generation


def test_generation_is_greedy_in_batches_and_alone(vlm):
    expected = [cut(vlm, greedy(vlm, query, 6)) for query in QUERIES]
    assert vlm.generate(QUERIES, max_new_tokens=6) == expected
    assert vlm.generate(QUERIES, max_new_tokens=6, batch_size=1) == expected
    assert vlm.generate(QUERIES, max_new_tokens=6, batch_size=3) == expected


def test_generation_ignores_the_checkpoints_sampling(vlm, monkeypatch):
    expected = vlm.generate(QUERIES[:2], max_new_tokens=6)
    for model in {vlm.model, getattr(vlm.model, "language_model", vlm.model)}:
        if hasattr(model, "generation_config"):
            monkeypatch.setattr(model.generation_config, "repetition_penalty", 5.0)
            monkeypatch.setattr(model.generation_config, "do_sample", True)
    assert vlm.generate(QUERIES[:2], max_new_tokens=6) == expected


# Patches


def test_a_patch_acts_and_leaves_nothing(vlm, batch):
    logits = vlm.logits(batch)
    with unchanged(vlm, batch), vlm.patched(Routed()) as patched:
        assert patched is vlm
        assert (vlm.logits(batch) - logits).abs().max() > 0.01


def test_a_patch_is_bound_once_a_batch(vlm, batch):
    patch = Routed()
    with vlm.patched(patch):
        vlm.logits(batch)
        assert patch.bound == 1
        vlm.generate(QUERIES[:2], max_new_tokens=4)
        assert patch.bound == 2
        vlm.logits(vlm.encode(QUERIES[:1]))
        assert patch.bound == 3


def test_a_patch_sees_padded_rows_as_it_sees_them_alone(vlm):
    with vlm.patched(Routed()):
        alone = [vlm.logits(vlm.encode([query]))[0] for query in QUERIES]
        for side in ("left", "right"):
            batch = vlm.encode(QUERIES, padding_side=side)
            for one, other in zip(alone, real(vlm.logits(batch), batch.spans), strict=True):
                close(one, other, 1e-4)


@pytest.mark.parametrize("site", ["layers.2", "layers.1.mlp", "layers.0.self_attn", "norm"])
def test_generation_sees_a_patch(vlm, site):
    if vlm.model.config.model_type == "blip-2":  # OPT's names
        site = {"layers.1.mlp": "layers.1.fc2", "norm": "final_layer_norm"}.get(site, site)
    plain, patch = vlm.generate(QUERIES, max_new_tokens=6), Routed(site=site)
    with vlm.patched(patch):
        expected = [cut(vlm, greedy(vlm, query, 6)) for query in QUERIES]
        patch.seen.clear()
        assert vlm.generate(QUERIES, max_new_tokens=6) == expected
        assert {shape[1] for shape in patch.seen[1:]} == {1}, "decoding goes token by token, with a cache"
        assert vlm.generate(QUERIES, max_new_tokens=6, batch_size=1) == expected
    assert expected != plain
    assert vlm.generate(QUERIES, max_new_tokens=6) == plain


def test_raw_generation_sees_a_patch(vlm):
    asked = [replace(query, target="") for query in QUERIES]
    batch = vlm.encode(asked, padding_side="left")
    plain = raw_generate(vlm, batch, 6)
    with vlm.patched(Routed()):
        tokens = raw_generate(vlm, batch, 6)
        assert [cut(vlm, row) for row in tokens.tolist()] == vlm.generate(QUERIES, max_new_tokens=6)
        beams = vlm.model.generate(**batch.inputs, max_new_tokens=3, num_beams=2, pad_token_id=vlm.pad_token_id)
        assert len(beams) == len(QUERIES)
    assert tokens.shape != plain.shape or not torch.equal(tokens, plain)
    assert torch.equal(raw_generate(vlm, batch, 6), plain)


def test_raw_forward_sees_a_patch(vlm):
    batch = vlm.encode([replace(query, target="") for query in QUERIES])
    with vlm.patched(Routed()):
        assert torch.equal(vlm.model(**batch.inputs).logits, vlm.logits(batch))


def test_a_raw_call_that_hides_its_tokens_is_refused(vlm):
    states = torch.zeros(1, 4, vlm.hidden_size)
    with vlm.patched(Routed()), pytest.raises(BadInput, match="needs input_ids"):
        vlm.decoder(inputs_embeds=states, attention_mask=torch.ones(1, 4, dtype=torch.long))


def test_an_empty_patch_leaves_logits_bit_equal(vlm, batch):
    class Silent(Patch):
        def bind(self, batch):
            return {"layers.1": lambda states: states, "layers.0.self_attn": lambda states: states}

    logits = vlm.logits(batch)
    for patch in (Patch(), Silent()):
        with unchanged(vlm, batch), vlm.patched(patch):
            assert torch.equal(vlm.logits(batch), logits)


def test_an_exception_leaves_nothing(vlm, batch):
    class Faulty(Routed):
        def bind(self, batch):
            return {**super().bind(batch), "layers.3": lambda states: 1 // 0}

        def weights(self):
            name, value = next(vlm.model.named_parameters())
            return {name: torch.zeros_like(value)}

    with unchanged(vlm, batch):
        for call in (
            lambda: vlm.logits(batch),
            lambda: vlm.generate(QUERIES[:2]),
            lambda: vlm.hidden(batch, 3),
            lambda: vlm.resume(LAYER, vlm.hidden(batch, LAYER)),
        ):
            with pytest.raises(ZeroDivisionError), vlm.patched(Faulty()):
                call()
        with pytest.raises(KeyboardInterrupt), vlm.patched(Routed()):
            raise KeyboardInterrupt


def test_a_site_that_does_not_exist_is_refused(vlm, batch):
    with unchanged(vlm, batch), vlm.patched(Routed(layer=99)), pytest.raises(UnsupportedModel, match=r"layers\.99"):
        vlm.logits(batch)


def test_hidden_and_resume_under_a_patch(vlm, batch):
    plain = vlm.hidden(batch, LAYER)
    resumed = vlm.resume(LAYER, plain)
    with vlm.patched(Routed(layer=LAYER)):
        at = vlm.hidden(batch, LAYER)
        assert not torch.equal(at.hidden, plain.hidden), "what acts on the layer itself is in its output"
        close(vlm.resume(LAYER, at), vlm.logits(batch), 1e-4)
        assert torch.equal(vlm.resume(LAYER, plain), resumed), "and does not act a second time"
    with vlm.patched(Routed(layer=0)):
        assert torch.equal(vlm.resume(LAYER, plain), resumed)
    with vlm.patched(Routed(layer=2)):
        close(vlm.resume(LAYER, vlm.hidden(batch, LAYER)), vlm.logits(batch), 1e-4)
        stacked = HiddenBatch.stack(plain.rows()[::-1])
        resumed = real(vlm.resume(LAYER, stacked), stacked.spans)[::-1]
        for one, other in zip(resumed, real(vlm.logits(batch), batch.spans), strict=True):
            close(one, other, 1e-4)


def test_gradients_reach_what_a_patch_brings_in(vlm, batch):
    scale = torch.tensor(0.5, requires_grad=True)
    with vlm.patched(Routed(scale=scale)):
        vlm.logits(batch)[batch.answer_positions()].logsumexp(-1).sum().backward()
    assert scale.grad.abs() > 0


def test_weights_are_put_on_and_taken_off(vlm, batch):
    name = next(name for name, value in vlm.decoder.named_parameters() if "layers.3" in name and value.ndim == 2)
    name = f"{vlm.decoder_path}.{name}"
    noise = torch.randn(vlm.model.get_parameter(name).shape, generator=torch.Generator().manual_seed(0))
    value = (vlm.model.get_parameter(name) + 0.2 * noise).requires_grad_()
    logits, fingerprint = vlm.logits(batch), vlm.fingerprint
    with unchanged(vlm, batch), vlm.patched(Weights({name: value})):
        changed = vlm.logits(batch)
        assert (changed - logits).abs().max() > 0.01
        assert torch.equal(raw_logits(vlm, batch), changed)
        changed.sum().backward()
        assert value.grad.abs().max() > 0
        assert vlm.fingerprint == fingerprint
        with vlm.patched(Routed()):
            assert not torch.equal(vlm.logits(batch), changed)
        assert torch.equal(vlm.logits(batch), changed)


def raw_logits(vlm, batch):
    return vlm.model(**batch.inputs).logits


def test_patches_can_be_nested(vlm, batch):
    with unchanged(vlm, batch), vlm.patched(Routed(layer=1)):
        one = vlm.logits(batch)
        with vlm.patched(Routed(layer=2)):
            both = vlm.logits(batch)
        assert torch.equal(vlm.logits(batch), one)
    assert not torch.equal(one, both)


def test_rewriting_queries(vlm, batch):
    class Context(Patch):
        def rewrite(self, query):
            return replace(query, prompt=f"film? {query.prompt}")

    rewritten = [Context().rewrite(query) for query in QUERIES]
    expected, answers = vlm.encode(rewritten), vlm.generate(rewritten, max_new_tokens=3)
    with unchanged(vlm, batch), vlm.patched(Context()):
        assert torch.equal(vlm.encode(QUERIES).inputs["input_ids"], expected.inputs["input_ids"])
        assert vlm.generate(QUERIES, max_new_tokens=3) == answers


class Before(Patch):
    """The vectors of one token, three times, before the text of some rows."""

    def __init__(self, vlm, token, rows):
        words = vlm.model.get_input_embeddings().weight[[token] * 3].clone()
        self.vectors = dict.fromkeys(rows, words)

    def prefix(self, batch):
        return self.vectors


def test_vectors_before_a_text_are_like_tokens_there(vlm, batch):
    patch = Before(vlm, 77, (0, 1, 3))
    longer, places = batch.prefixed(patch.vectors, 77)
    expected = vlm.logits(replace(longer, prefix={}))[torch.arange(len(QUERIES))[:, None], places]
    asked = vlm.encode([replace(QUERIES[0], target="")], padding_side="left")
    tokens = raw_generate(vlm, replace(asked.prefixed({0: patch.vectors[0]}, 77)[0], prefix={}), 4)[:, -4:]
    with unchanged(vlm, batch), vlm.patched(patch):
        got = vlm.logits(batch)
        assert got.shape[:2] == batch.labels.shape
        close(got, expected, 1e-4)
        with pytest.raises(UnsupportedModel, match="two patches"), vlm.patched(Before(vlm, 78, (1,))):
            vlm.logits(batch)
    with vlm.patched(Before(vlm, 77, (0,))):
        answer = vlm.tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert vlm.generate(QUERIES[:1], max_new_tokens=4) == [answer.strip()]


def test_the_decoder_goes_on_from_embeddings(vlm, batch):
    hidden = vlm.hidden(batch, EMBEDDINGS)
    close(vlm.resume(EMBEDDINGS, hidden), vlm.logits(batch), 1e-4)
    stacked = HiddenBatch.stack(hidden.rows()[::-1])
    resumed = real(vlm.resume(EMBEDDINGS, stacked), stacked.spans)[::-1]
    for one, other in zip(resumed, real(vlm.logits(batch), batch.spans), strict=True):
        close(one, other, 1e-4)


def test_merging_logits(vlm, batch):
    class Favour(Patch):
        """Answers with the row's last token, plus the number of tokens so far: both must be up to date."""

        def merge(self, batch, logits):
            ids = batch.inputs["input_ids"]
            favoured = (ids[:, -1] + ids.shape[1]) % logits.shape[-1]
            return logits.index_put(
                (torch.arange(len(ids)), torch.tensor([logits.shape[1] - 1]), favoured), torch.tensor(99.0)
            )

    asked = [replace(query, target="") for query in QUERIES[:1]]
    prompt = vlm.encode(asked, padding_side="left")
    ids = prompt.inputs["input_ids"]
    for _ in range(3):
        ids = torch.cat([ids, (ids[:, -1:] + ids.shape[1]) % vlm.logits(prompt).shape[-1]], 1)
    with unchanged(vlm, batch), vlm.patched(Favour()):
        vlm.model.generation_config.eos_token_id, end = None, vlm.model.generation_config.eos_token_id
        tokens = raw_generate(vlm, prompt, 3)
        vlm.model.generation_config.eos_token_id = end
        width = prompt.labels.shape[1]
        assert tokens.tolist() == ids[:, width : width + tokens.shape[1]].tolist()
        assert (vlm.logits(prompt)[:, -1].max(-1).values == 99).all()


# Loading


def test_every_registered_family_has_a_tiny_one():
    assert set(FAMILIES) == set(TINY) == set(VISION)


def test_save_and_load(vlm, batch, tmp_path):
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = VLM.load(tmp_path, prompt_format=vlm.prompt_format)
    assert type(loaded) is type(vlm)
    assert loaded.fingerprint == vlm.fingerprint
    assert torch.equal(loaded.logits(loaded.encode(QUERIES)), vlm.logits(batch))
    assert VLM.load(str(tmp_path), dtype=torch.bfloat16).dtype == torch.bfloat16


def another(vlm, seed=0):
    return tiny(TINY[vlm.model.config.model_type], seed)


def test_fingerprint_tells_models_apart(vlm):
    assert another(vlm).fingerprint == vlm.fingerprint
    nudged = another(vlm)
    next(nudged.layers[3].parameters()).data.view(-1)[5] += 1e-3
    assert nudged.fingerprint != vlm.fingerprint
    assert another(vlm, seed=1).fingerprint != vlm.fingerprint


def test_half_precision(vlm):
    half = VLM(another(vlm).model.bfloat16(), vlm.processor, vlm.prompt_format)
    batch = half.encode(QUERIES)
    assert half.logits(batch).dtype == torch.bfloat16
    close(half.resume(LAYER, half.hidden(batch, LAYER)), half.logits(batch))
    with half.patched(Routed()):
        assert len(half.generate(QUERIES, max_new_tokens=2)) == len(QUERIES)
