"""The generic family: what it finds, and how it refuses what it cannot read."""

import pytest
import torch
import transformers

from liveedit.editors import new_editor
from liveedit.editors.common.branch import Recorder
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models import REFUSED, family, streams
from liveedit.models.batch import HiddenBatch
from liveedit.models.conformance.assertions import Broken, close
from liveedit.models.conformance.queries import QUERIES, WIDE
from liveedit.models.families.generic import Generic, stacked
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


def test_findings_in_one_model_do_not_leak_into_another(vlm):
    other = tiny("gemma3")
    assert all(made.decoder is made.model.get_submodule(made.decoder_path) for made in (vlm, other))
    assert vlm.image_mark != other.image_mark
    assert "image_mark" not in vars(Generic)


def test_marks_around_an_image_come_from_the_chat_template():
    model, processor = shrink("qwen3_vl")
    mark = "<|vision_start|><image><|vision_end|>"
    processor.chat_template = CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", mark)
    chat = VLM(model, processor)
    assert (chat.prompt_format, chat.image_mark) == ("chat", mark)
    raw = VLM(model, processor, "raw")
    assert raw.render(Query("What?", image=WIDE)) == f"{mark}What?"


def test_deepstack_features_are_kept_with_each_row(vlm):
    batch = vlm.encode(QUERIES)
    rows = vlm.hidden(batch, 0).rows()
    assert rows[0].extra["deepstack_visual_embeds"].shape[2:] == (2, vlm.hidden_size)
    text = vlm.hidden(vlm.encode(QUERIES[1:2]), 0)
    assert text.extra == {}
    both = HiddenBatch.stack([text, rows[0]])
    assert not both.extra["deepstack_visual_embeds"][0].any()
    one = vlm.resume(0, both)[1, : rows[0].hidden.shape[1]]
    torch.testing.assert_close(one, vlm.resume(0, rows[0])[0], atol=1e-4, rtol=1e-4)


def test_inputs_that_only_some_images_have_are_joined(vlm):
    one, other = (
        {"whole": torch.ones(1, 2)},
        {"whole": torch.zeros(1, 2), "tiles": torch.ones(3, 2)},
    )
    joined = vlm.join([one, other, one])
    assert joined["whole"][:, 0].tolist() == [1, 0, 1]
    assert joined["tiles"].shape == (3, 2)
    assert vlm.join([]) == {}


def test_images_of_several_shapes_are_padded_to_the_largest():
    assert stacked([torch.ones(1, 2, 3), torch.ones(2, 1, 4)]).shape == (3, 2, 4)
    assert stacked([torch.ones(1, 2, 3), torch.ones(2, 1, 4)]).sum() == 6 + 8


@pytest.mark.parametrize("model_type", REFUSED)
def test_types_known_not_to_work_are_refused_with_the_reason(model_type):
    with pytest.raises(UnsupportedModel, match=rf"'{model_type}' cannot be edited: \w+"):
        family(model_type)


@pytest.mark.parametrize(
    ("model_type", "reason"), [("blip", "cross attention"), ("florence2", "an encoder")]
)
def test_types_found_not_to_work_are_refused_with_the_reason(model_type, reason):
    with pytest.raises(UnsupportedModel, match=reason):
        tiny(model_type)


@pytest.mark.parametrize("name", ["cross_attn", "crossattention"])
def test_cross_attention_is_refused(name):
    model, processor = shrink("llava_next")
    model.get_decoder().layers[1].add_module(name, torch.nn.Linear(1, 1))
    with pytest.raises(UnsupportedModel, match="by cross attention"):
        VLM(model, processor)


def test_a_processor_without_an_image_token_is_refused(monkeypatch):
    model, processor = shrink("llava_next")
    processor.image_token = None
    with pytest.raises(UnsupportedModel, match="names no image token"):
        VLM(model, processor)


def test_a_model_that_resumes_wrongly_is_refused(monkeypatch):
    model, processor = shrink("llava_next")
    monkeypatch.setattr(
        Generic, "resume", lambda self, layer, hidden: 1 + VLM.resume(self, layer, hidden)
    )
    with pytest.raises(
        UnsupportedModel, match="'llava_next' cannot be edited: resume from layer -1 and logits"
    ):
        VLM(model, processor)


def test_a_placeholder_in_a_prompt_is_refused(vlm):
    with pytest.raises(BadInput, match="placeholder"):
        vlm.encode([Query("a <image>")])


def test_a_processor_is_read_without_its_part_for_videos(tmp_path):
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
def test_layers_that_read_more_of_lower_layers_are_refused(setting, value, reason):
    model, processor = shrink("mistral_large4")
    setattr(model.config.get_text_config(), setting, value)
    with pytest.raises(UnsupportedModel, match=reason):
        VLM(model, processor)


def test_layers_may_return_a_tuple():
    assert tiny("mistral_large4").layer_outputs == 2


def test_lists_of_numbers_become_tensors():
    vlm = tiny("unlimited_ocr")
    inputs = vlm.encode(QUERIES).inputs
    assert inputs["num_local_patches"].tolist() == [6, 0, 6]
    assert inputs["patches_grid"].tolist() == [[3, 2], [1, 1], [3, 2]]
    assert len(inputs["pixel_values_local"]) == 12
    assert "pixel_values_local" not in vlm.encode(QUERIES[2:3]).inputs


def test_a_masked_logit_hides_no_difference_in_another():
    least = torch.finfo(torch.float32).min
    close(torch.tensor([least, 1.0]), torch.tensor([least, 1.0]), "logits")
    with pytest.raises(Broken, match="logits: 1 apart"):
        close(torch.tensor([least, 1.0]), torch.tensor([least, 2.0]), "logits")


def test_joined_residual_streams_leave_the_logits_bit_equal():
    model, processor = shrink("glm5_next")
    ids = torch.arange(20, 40)[None]
    states = list[torch.Tensor]()
    model.get_decoder().layers[2].register_forward_hook(lambda *args: states.append(args[2][0]))
    logits = model.eval()(input_ids=ids).logits
    vlm = VLM(model, processor)
    assert torch.equal(VLM(model, processor).model(input_ids=ids).logits, logits)
    assert torch.equal(states[0].flatten(2), states[-1])
    assert states[0].shape[2:] == (2, vlm.hidden_size)


def test_residual_streams_reach_a_patch_end_to_end_before_the_first_layer():
    vlm = tiny("glm5_next")
    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    recorder = Recorder("layers.0@input")
    with vlm.patched(recorder):
        assert torch.equal(vlm.logits(batch), logits)
    states = recorder.seen["layers.0@input"]
    assert states.shape == (*batch.inputs["input_ids"].shape, vlm.state_size)
    first, second = states.chunk(2, dim=-1)
    assert torch.equal(first, second)


def test_residual_streams_that_are_not_joined_are_refused(monkeypatch):
    monkeypatch.setattr(streams, "join", lambda *_: None)
    with pytest.raises(
        UnsupportedModel, match=r"its layers return states of shape \[64\] for each token"
    ):
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
    with pytest.raises(UnsupportedModel, match="pinpoint needs states as wide as word embeddings"):
        new_editor(vlm, "pinpoint", {"layer": 2})
