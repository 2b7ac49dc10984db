"""The generic family: what it finds, and how it refuses what it cannot read."""

import pytest
import torch
import transformers

from liveedit.editors import new_editor
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models import REFUSED, family, streams
from liveedit.models.batch import HiddenBatch
from liveedit.models.conformance.assertions import Broken, close
from liveedit.models.conformance.queries import QUERIES, SQUARE, WIDE
from liveedit.models.families.generic import Generic, stacked
from liveedit.models.families.inkling2 import BLOCKS
from liveedit.models.processor import image_text_class, load_processor
from liveedit.models.tiny import tiny
from liveedit.models.tiny.families import CHAT
from liveedit.models.tiny.shrink import shrink
from liveedit.models.vlm import VLM
from liveedit.types import Query


@pytest.fixture(scope="module")
def vlm():
    return tiny("qwen3_vl")


def test_it_finds_decoder_tower_and_tokens(vlm):
    assert type(vlm) is Generic
    assert (vlm.decoder_path, vlm.tower_path) == ("model.language_model", "")
    assert vlm.connector_path == "model.visual.merger"
    assert vlm.placeholder == "<image>"
    other = tiny("llava_next")
    assert other.tower_path == "model.vision_tower"
    assert other.connector_path == "model.multi_modal_projector"


def test_what_one_model_finds_is_not_another_models(vlm):
    other = tiny("gemma3")
    assert all(made.decoder is made.model.get_submodule(made.decoder_path) for made in (vlm, other))
    assert vlm.image_mark != other.image_mark
    assert "image_mark" not in vars(Generic)


def test_the_template_says_what_stands_around_an_image():
    model, processor = shrink("qwen3_vl")
    mark = "<|vision_start|><image><|vision_end|>"
    processor.chat_template = CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", mark)
    chat = VLM(model, processor)
    assert (chat.prompt_format, chat.image_mark) == ("chat", mark)
    raw = VLM(model, processor, "raw")
    assert raw.render(Query("What?", image=WIDE)) == f"{mark}What?"


def test_deepstack_goes_with_the_rows(vlm):
    batch = vlm.encode(QUERIES)
    rows = vlm.hidden(batch, 0).rows()
    assert rows[0].extra["deepstack_visual_embeds"].shape[2:] == (2, vlm.hidden_size)
    text = vlm.hidden(vlm.encode(QUERIES[1:2]), 0)
    assert text.extra == {}
    both = HiddenBatch.stack([text, rows[0]])
    assert not both.extra["deepstack_visual_embeds"][0].any()
    one = vlm.resume(0, both)[1, : rows[0].hidden.shape[1]]
    torch.testing.assert_close(one, vlm.resume(0, rows[0])[0], atol=1e-4, rtol=1e-4)


def test_a_processor_may_want_marks_around_the_placeholder():
    marked = tiny("hunyuan_vl")
    assert marked.image_mark == "<|image_start|><image><|image_end|>\n"
    ids = marked.encode([Query("What?", image=WIDE)]).inputs["input_ids"][0].tolist()
    start, stop = (
        ids.index(marked.tokenizer.convert_tokens_to_ids(f"<|image_{end}|>"))
        for end in ("start", "end")
    )
    assert set(ids[start + 1 : stop]) == {marked.image_token_id}


def test_what_some_images_have_alone_is_joined(vlm):
    one, other = (
        {"whole": torch.ones(1, 2)},
        {"whole": torch.zeros(1, 2), "tiles": torch.ones(3, 2)},
    )
    joined = vlm.join([one, other, one])
    assert joined["whole"][:, 0].tolist() == [1, 0, 1]
    assert joined["tiles"].shape == (3, 2)
    assert vlm.join([]) == {}


def test_images_that_differ_in_shape_are_filled_up():
    assert stacked([torch.ones(1, 2, 3), torch.ones(2, 1, 4)]).shape == (3, 2, 4)
    assert stacked([torch.ones(1, 2, 3), torch.ones(2, 1, 4)]).sum() == 6 + 8


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_edited_is_refused_by_name(model_type):
    with pytest.raises(UnsupportedModel, match=rf"'{model_type}' cannot be edited: \w+"):
        family(model_type)


@pytest.mark.parametrize(
    ("model_type", "reason"), [("blip", "cross attention"), ("florence2", "an encoder")]
)
def test_what_is_found_not_to_work_is_refused(model_type, reason):
    with pytest.raises(UnsupportedModel, match=reason):
        tiny(model_type)


@pytest.mark.parametrize("name", ["cross_attn", "crossattention"])
def test_layers_that_look_back_at_the_image_are_refused(name):
    model, processor = shrink("llava_next")
    model.get_decoder().layers[1].add_module(name, torch.nn.Linear(1, 1))
    with pytest.raises(UnsupportedModel, match="by cross attention"):
        VLM(model, processor)


def test_a_processor_without_an_image_token_is_refused(monkeypatch):
    model, processor = shrink("llava_next")
    processor.image_token = None
    with pytest.raises(UnsupportedModel, match="names no image token"):
        VLM(model, processor)


def test_what_does_otherwise_than_editors_rely_on_is_refused(monkeypatch):
    model, processor = shrink("llava_next")
    monkeypatch.setattr(
        Generic, "resume", lambda self, layer, hidden: 1 + VLM.resume(self, layer, hidden)
    )
    with pytest.raises(
        UnsupportedModel, match="'llava_next' cannot be edited: resume from layer -1 and logits"
    ):
        VLM(model, processor)


def test_placeholder_is_refused_before_anything_is_processed(vlm):
    with pytest.raises(BadInput, match="placeholder"):
        vlm.encode([Query("a <image>")])


def test_a_processor_keeps_no_part_for_videos(tmp_path):
    model, processor = shrink("qwen2_5_vl")
    assert type(processor) is image_text_class(transformers.Qwen2_5_VLProcessor)
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert type(processor).get_attributes() == ["image_processor", "tokenizer"]
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(load_processor(str(tmp_path))) is type(processor)


def test_a_type_without_processor_is_refused():
    with pytest.raises(UnsupportedModel, match="no model type 'nothing'"):
        shrink("nothing")


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("kv_source_layers", [0, 1, 1, 3], "take keys and values from lower ones"),
        ("indexer_types", ["full", "full", "shared", "full"], "that lower ones have chosen"),
    ],
)
def test_layers_that_take_more_from_lower_ones_are_refused(setting, value, reason):
    model, processor = shrink("mistral_large4")
    setattr(model.config.get_text_config(), setting, value)
    with pytest.raises(UnsupportedModel, match=reason):
        VLM(model, processor)


def test_layers_that_put_out_more_than_states():
    assert tiny("mistral_large4").layer_outputs == 2


def test_numbers_in_lists_are_held_as_tensors():
    vlm = tiny("unlimited_ocr")
    inputs = vlm.encode(QUERIES).inputs
    assert inputs["num_local_patches"].tolist() == [6, 0, 6]
    assert inputs["patches_grid"].tolist() == [[3, 2], [1, 1], [3, 2]]
    assert len(inputs["pixel_values_local"]) == 12
    assert "pixel_values_local" not in vlm.encode(QUERIES[2:3]).inputs


def test_blocks_go_with_the_rows():
    vlm = tiny("inkling2")
    batch = vlm.encode(QUERIES)
    below, above = vlm.hidden(batch, 1), vlm.hidden(batch, 2)
    assert BLOCKS not in vlm.hidden(batch, -1).extra
    assert below.extra[BLOCKS].shape[2:] == (1, vlm.hidden_size)
    torch.testing.assert_close(above.extra[BLOCKS][:, :, 1], below.hidden)
    logits = vlm.resume(2, above)
    above.extra[BLOCKS][:, :, 0] = 0
    assert not torch.allclose(vlm.resume(2, above), logits, atol=1e-2)


def test_images_of_many_tiles_and_of_few():
    vlm = tiny("perception_lm")
    wide, square = (
        vlm.encode([Query("?", image=image)]).inputs["pixel_values"] for image in (WIDE, SQUARE)
    )
    assert wide.shape[1] > square.shape[1] > 1
    both = vlm.encode([Query("?", image=[WIDE, SQUARE])]).inputs["pixel_values"]
    assert torch.equal(both, torch.cat([wide, square], 1))


def test_chameleons_images_are_put_in_as_its_own_code_does():
    model, processor = shrink("chameleon")
    inputs = processor(
        images=[[WIDE, SQUARE]], text=["<image> and <image>: what?"], return_tensors="pt"
    )
    with torch.no_grad():
        own = model.eval()(**inputs).logits
        vlm = VLM(model, processor)
        assert torch.equal(model(**inputs).logits, own)
    (span,) = vlm.encode([Query("What?", image=WIDE)]).spans
    assert span.image == (2, 18)  # BOS and the mark before it, 4 by 4 words
    words = model.model.get_image_tokens(inputs["pixel_values"][:1])
    assert torch.equal(vlm.image_states(WIDE), vlm.embedding(words[0]))


def test_padding_changes_no_word_of_emu3s_images():
    vlm = tiny("emu3")
    batch = vlm.encode([Query("?", image=image) for image in (WIDE, SQUARE)])
    words = vlm.model.model.get_image_tokens(
        batch.inputs["pixel_values"], batch.inputs["image_sizes"]
    )
    alone = [vlm.encode([Query("?", image=image)]).inputs for image in (WIDE, SQUARE)]
    assert batch.inputs["pixel_values"].shape[-2:] != alone[0]["pixel_values"].shape[-2:]
    expected = [
        vlm.model.model.get_image_tokens(one["pixel_values"], one["image_sizes"]) for one in alone
    ]
    assert torch.equal(words, torch.cat(expected))


def test_granite_vision_puts_the_image_into_the_first_layer():
    vlm = tiny("granite4_vision")
    batch = vlm.encode(QUERIES[:1])
    seen = []
    with vlm.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0])):
        vlm.logits(batch)
    embedded = vlm.hidden(batch, -1)
    torch.testing.assert_close(embedded.hidden * vlm.decoder.embedding_multiplier, seen[0])
    assert not embedded.extra["deepstack_features"][:, :, 0].any()


def test_a_logit_that_is_never_to_be_the_largest_hides_no_other():
    least = torch.finfo(torch.float32).min
    close(torch.tensor([least, 1.0]), torch.tensor([least, 1.0]), "logits")
    with pytest.raises(Broken, match="logits: 1 apart"):
        close(torch.tensor([least, 1.0]), torch.tensor([least, 2.0]), "logits")


def test_streams_laid_end_to_end_leave_the_logits_bit_equal():
    model, processor = shrink("glm5_next")
    ids, states = torch.arange(20, 40)[None], list[torch.Tensor]()
    model.get_decoder().layers[2].register_forward_hook(lambda *args: states.append(args[2][0]))
    logits = model.eval()(input_ids=ids).logits
    vlm = VLM(model, processor)
    assert torch.equal(VLM(model, processor).model(input_ids=ids).logits, logits)
    assert torch.equal(states[0].flatten(2), states[-1])
    assert states[0].shape[2:] == (2, vlm.hidden_size)


def test_streams_that_stay_apart_are_refused(monkeypatch):
    monkeypatch.setattr(streams, "join", lambda *_: None)
    with pytest.raises(UnsupportedModel, match=r"its layers put out \[64\] numbers of every token"):
        tiny("glm5_next")


@pytest.mark.parametrize(
    ("model_type", "count"), [("gemma3n", 4), ("glm5_next", 2), ("qwen4_exp", 2)]
)
def test_editors_act_on_all_residual_streams_or_say_that_they_cannot(model_type, count):
    vlm = tiny(model_type)
    assert vlm.state_size == count * vlm.hidden_size
    edit = [Query("Which film is this?", "Rain", WIDE)]
    with vlm.patched(
        new_editor(vlm, "liveedit", {"module_dim": 16, "heads": 2, "layer": 2, "rank": 4}).edit(
            edit
        )
    ):
        assert len(vlm.generate(edit, max_new_tokens=1)) == 1
    with pytest.raises(UnsupportedModel, match="pinpoint needs states as wide as words"):
        new_editor(vlm, "pinpoint", {"layer": 2})
