"""Chat templates of many forms: how a message, an image, a thought and a date are rendered."""

from dataclasses import replace

import pytest
from PIL import Image

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query

FLAG = Image.new("RGB", (24, 24))
TURN = "{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def llava():
    return tiny("llava")


def asked(llava, template, *, owner="processor", form="chat"):
    """The model with this template."""
    processor = llava.processor
    processor.chat_template = llava.tokenizer.chat_template = None
    (processor if owner == "processor" else llava.tokenizer).chat_template = template
    try:
        vlm = VLM(llava.model, processor, form)
        vlm.encode([Query("Who?", "me", FLAG)])
    finally:
        processor.chat_template = llava.tokenizer.chat_template = None
    return vlm


@pytest.mark.parametrize("owner", ["processor", "tokenizer"])
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}USER: {{ m['content'] }}{% endfor %} ASSISTANT:",
        TURN + " ASSISTANT:",
        "{% for m in messages %}USER: {% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
        "{% endfor %} ASSISTANT:",
    ],
    ids=["printed", "added", "texts"],
)
def test_a_template_for_text_alone_is_given_the_image_in_the_text(llava, template, owner):
    vlm = asked(llava, template, owner=owner)
    assert vlm.render(Query("Which flag?", image=FLAG)) == "USER: <image>\nWhich flag? ASSISTANT:"
    assert vlm.render(Query("Which flag?")) == "USER: Which flag? ASSISTANT:"
    assert vlm.encode([Query("Which flag?", "Japan", [FLAG, FLAG])]).spans[0].image[1] > 9


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.first.second }}", "undefined|has no"),
        ("Hello!", "leaves out the question"),
        ("{% for m in messages %}", "cannot be used: it says"),
        ({"rag": "x", "tool_use": "y"}, "several, rag, tool_use"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_in_one_line(llava, template, reason):
    with pytest.raises(
        BadInput, match=f"chat template of the model's processor.*{reason}"
    ) as caught:
        asked(llava, template)
    assert "\n" not in str(caught.value)
    assert "placeholder" not in str(caught.value)
    assert asked(llava, template, form="raw").render(Query("Who?")) == "Who?"


def test_the_default_of_several_templates_is_taken(llava):
    vlm = asked(llava, {"default": TURN + " ASSISTANT:", "rag": "x"})
    assert vlm.render(Query("Who?")) == "USER: Who? ASSISTANT:"


def test_a_template_with_a_date_says_the_same_tomorrow(llava):
    days = "{{ strftime_now('%d %b %Y') }}, {{ strftime_now('%A %H:%M') }}"
    vlm = asked(llava, f"\nToday is {days}. {TURN}")
    assert vlm.render(Query("Who?")) == "\nToday is 26 Jul 2024, Friday 00:00. USER: Who?"


@pytest.mark.parametrize(
    ("ending", "rendered"),
    [
        ("<think>", "<think>\n\n</think>\n\n"),
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        ("<think></think>", "<think></think>"),
        ("{{ '<think>' if enable_thinking is not defined or enable_thinking }}", ""),
        ("{{ '<think>' if thinking is not false }}", ""),
    ],
)
def test_no_answer_stands_within_a_thought(llava, ending, rendered):
    vlm = asked(llava, f"{TURN} ASSISTANT: {ending}")
    assert (
        vlm.render(Query("Is <think> a word?")) == f"USER: Is <think> a word? ASSISTANT: {rendered}"
    )


TURNS = "{% for m in messages %}[{{ m['role'] }}]GAP{{ m['content'] }};{% endfor %}"


@pytest.mark.parametrize(
    ("template", "between"),
    [
        (TURN + " ASSISTANT:", " "),  # written for one turn: as in raw prompts
        (TURN + " ASSISTANT: ", ""),
        (TURN + "{{ '\\n' }}", ""),
        (TURNS.replace("GAP", "") + "{% if add_generation_prompt %}[assistant]{% endif %}", ""),
        (TURNS.replace("GAP", " ") + "{% if add_generation_prompt %}[assistant]{% endif %}", " "),
        (TURNS.replace("GAP", " ") + "{% if add_generation_prompt %}[assistant] {% endif %}", ""),
    ],
)
def test_an_answer_stands_where_the_template_puts_it(llava, template, between):
    vlm = asked(llava, template)
    query = Query("Which flag?", " Casablanca ", FLAG)
    assert vlm.said(vlm.render(query), query.target) == f"{between}Casablanca"
    both = vlm.encode([query]), vlm.encode([replace(query, target="")])
    whole, alone = (batch.inputs["input_ids"][0].tolist() for batch in both)
    assert whole[: len(alone)] == alone
    assert vlm.tokenizer.decode(whole[len(alone) :]) == f"{between}Casablanca"


def test_a_template_that_leaves_the_image_out_is_not_the_users_fault(llava):
    shown = "{{ '<picture>' if p['type'] == 'image' else p['text'] }}"
    template = f"{{% for p in messages[0]['content'] %}}{shown}{{% endfor %}}"
    with pytest.raises(
        UnsupportedModel, match="the chat template writes 0 image placeholders"
    ) as caught:
        asked(llava, template)
    assert "leave it out" not in str(caught.value)
    with pytest.raises(BadInput, match="leave it out"):
        llava.encode([Query("What is <image>?", image=FLAG)])


def test_a_tokenizer_that_ends_every_text_leaves_room_for_the_answer(llava):
    from tokenizers import processors

    core, own = llava.tokenizer.backend_tokenizer, llava.tokenizer.backend_tokenizer.post_processor
    expected = llava.encode([Query("Which flag?", "Japan")]).inputs["input_ids"].tolist()
    ends = [("<s>", core.token_to_id("<s>")), ("</s>", core.token_to_id("</s>"))]
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    try:
        vlm = VLM(llava.model, llava.processor)
        assert vlm.tokenizer("Which flag?")["input_ids"][-1] == vlm.tokenizer.eos_token_id
        assert vlm.encode([Query("Which flag?", "Japan")]).inputs["input_ids"].tolist() == expected
    finally:
        core.post_processor = own
