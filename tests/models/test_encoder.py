"""Encoding: prompt formats, tokens of prompt and target, and the model's context length."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query


@pytest.mark.parametrize("family", ["llava", "blip2", "git", "instructblip", "qwen2_5_vl"])
def test_a_prompt_that_the_model_has_no_room_for(family, one_line_error, flag):
    vlm = tiny(family)
    with one_line_error(BadInput, match=r"room for \d+ tokens, and the prompt takes \d+: shorten"):
        vlm.generate([Query("film " * 40_000, image=flag)])


def test_an_answer_that_the_model_has_no_room_for(one_line_error, flag):
    vlm = tiny("blip2")
    [length] = vlm.positions(vlm.encode([Query("Which film?", image=flag)])).tolist()
    assert vlm.generate([Query("Which film?", image=flag)], max_new_tokens=vlm.room - length)
    with one_line_error(
        BadInput, match="an answer up to 600 more: ask for a shorter one, or shorten"
    ):
        vlm.generate([Query("Which film?", image=flag)], max_new_tokens=600)


@pytest.mark.parametrize(
    ("rope", "room"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
    ],
)
def test_stretched_positions(rope, room, monkeypatch):
    vlm = tiny("llava")
    monkeypatch.setattr(vlm.model.config.text_config, "rope_parameters", rope)
    assert vlm.room == room


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("Which film?", "Becket", "Which film? Becket"),
        ("Which film?", " Becket\n", "Which film? Becket"),
        ("assistant\n", "Becket", "assistant\nBecket"),
        ("Which film?", "  ", "Which film?"),
        ("", "Becket", "Becket"),
    ],
)
def test_joining_prompt_and_target(prompt, target, text):
    assert prompt + tiny("llava").said(prompt, target) == text


def test_default_format_is_chat_where_there_is_a_template():
    families = ("llava", "blip2", "minigpt4", "qwen2_vl")
    assert [tiny(family).prompt_format for family in families] == ["raw", "raw", "chat", "chat"]
    llava = tiny("llava")
    with pytest.raises(BadInput, match="no chat template"):
        VLM(llava.model, llava.processor, "chat")


@pytest.mark.parametrize(
    ("family", "rendered"),
    [
        ("blip2", "Which flag?"),
        ("llava", "<image>Which flag?"),
        ("minigpt4", "###Human: <Img><ImageHere></Img> \x1fWhich flag?"),
        ("mplug_owl2", "<|image|>Which flag?"),
        ("qwen_vl", "Picture 1: <img><imgpad></img>\nWhich flag?"),
    ],
)
def test_the_prompts_of_vlkeb(family, rendered, flag):
    made = tiny(family)
    vlm = VLM(made.model, made.processor, "vlkeb")
    assert vlm.render(Query("Which flag? ", image=flag)) == rendered
    assert vlm.render(Query("Which flag? ")) == "Which flag?"


def test_a_model_that_vlkeb_does_not_have_has_no_prompt_of_it():
    made = tiny("qwen2_vl")
    with pytest.raises(BadInput, match="no VLKEB prompt is defined for this model"):
        VLM(made.model, made.processor, "vlkeb")


def test_a_template_that_writes_bos_itself(flag):
    vlm = tiny("llava")
    vlm.processor.chat_template = (
        "<s>USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:"
    )
    chat = VLM(vlm.model, vlm.processor)
    assert chat.prompt_format == "chat"
    batch = chat.encode([Query("Which flag?", "Japan", flag)])
    ids = batch.inputs["input_ids"][0].tolist()
    assert ids.count(vlm.tokenizer.bos_token_id) == 1
    text = vlm.tokenizer.decode(ids).replace("<image>", "")
    assert text == "<s>USER: \nWhich flag? ASSISTANT: Japan"


def test_a_template_of_the_tokenizer_alone(flag):
    vlm = tiny("llava")
    vlm.tokenizer.chat_template = "{{ messages[0]['content'] }} ANSWER:"
    chat = VLM(vlm.model, vlm.processor)
    assert chat.render(Query("Which flag?", image=flag)) == "<image>\nWhich flag? ANSWER:"


def test_an_empty_query_is_refused_where_the_text_has_no_bos():
    vlm = tiny("qwen2_vl")
    with pytest.raises(BadInput, match="a query is empty"):
        VLM(vlm.model, vlm.processor, "raw").encode([Query("")])


def test_a_target_that_the_tokenizer_cannot_write_is_refused():
    core = Tokenizer(
        models.BPE({"<unk>": 0, "J": 1, "a": 2, "p": 3, "n": 4}, [], unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    vlm = tiny("llava")
    edited = EditableVLM(vlm, new_editor(vlm, "ft-l"))
    vlm.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    vlm.check_target(" Japan\n")
    with pytest.raises(BadInput, match="no token for 日 本: the model cannot answer 'J日本'"):
        edited.edit([Query("Which country?", "Japan"), Query("Which country?", "J日本")])
    assert edited.edits == ()
    tiny("llava").check_target("日本")  # byte by byte


def test_a_tokenizer_without_padding_token(flag):
    vlm = tiny("llava")
    queries = [Query("Which flag?", "Japan", flag), Query("who?", "me")]
    expected = vlm.logits(vlm.encode(queries))
    vlm.tokenizer.pad_token = None
    batch = vlm.encode(queries)
    assert vlm.pad_token_id == vlm.tokenizer.eos_token_id
    torch.testing.assert_close(vlm.logits(batch)[0], expected[0])
    stop = batch.spans[1].stop
    torch.testing.assert_close(vlm.logits(batch)[1, :stop], expected[1, :stop])


def test_qwen_takes_as_many_tokens_as_the_image_is_large(flag):
    vlm = tiny("qwen2_vl")
    images = [flag, flag.resize((32, 32)), flag.resize((16, 64))]
    batch = vlm.encode([Query("What?", image=image) for image in images])
    assert [stop - start for start, stop in (span.image for span in batch.spans)] == [8, 4, 4]
    assert vlm.hidden(batch, 0).position_ids.shape == (3, 3, batch.labels.shape[1])


def test_a_processor_without_image_processor(one_line_error):
    vlm = tiny("llava")
    for lacking in (vlm.tokenizer, vlm.processor.image_processor):
        with one_line_error(UnsupportedModel, match="the processor has no"):
            VLM(vlm.model, lacking)
