"""Chats of several turns: by the chat template where there is one, else line by line."""

import pytest

from liveedit.errors import BadInput
from liveedit.models.tiny import tiny
from liveedit.types import Query, Turn, checked

EARLIER = (
    Turn("system", "Answer shortly."),
    Turn("user", "Which flag?", images=1),
    Turn("assistant", "Norway"),
)


def query(flag, images=1):
    return Query("And its capital?", image=[flag] * images, earlier=EARLIER)


@pytest.fixture(scope="module")
def chat():
    """A tiny LLaVA whose chat template names who speaks."""
    vlm = tiny("llava")
    vlm.processor.chat_template = (
        "{% for message in messages %}{{ message.role | upper }}: "
        "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}"
        "{% endfor %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    return type(vlm)(vlm.model, vlm.processor, "chat")


def test_a_chat_template_gets_all_turns(chat, flag):
    assert chat.render(query(flag)) == (
        "SYSTEM: Answer shortly.\nUSER: <image>Which flag?\nASSISTANT: Norway\n"
        "USER: And its capital?\nASSISTANT:"
    )


def test_images_belong_to_their_turns(chat, flag):
    assert chat.render(query(flag, images=3)).endswith(
        "USER: <image><image>And its capital?\nASSISTANT:"
    )


def test_without_a_template_turns_stand_on_lines_after_the_images(vlm, flag):
    raw = type(vlm)(vlm.model, vlm.processor, "raw")
    flat = raw.flat(query(flag))
    assert flat.prompt == "Answer shortly.\nWhich flag? Norway\nAnd its capital?"
    assert raw.render(flat) == f"{raw.marks(1)}{flat.prompt}"
    one, other = raw.encode([query(flag)]), raw.encode([flat])
    assert one.inputs["input_ids"].equal(other.inputs["input_ids"])


def test_the_image_of_an_earlier_turn_is_what_the_question_is_about(chat, flag):
    [span] = chat.encode([query(flag)]).spans
    assert span.has_image
    assert span.before[1] - span.before[0] > 5  # the system's turn comes before the image


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ((Turn("user", "Hello", images=2),), "more images"),
        ((Turn("robot", "Hello"),), "system, user, assistant"),
        ((Turn("user", 5),), "text"),
        (("Hello",), "is a Turn"),
    ],
)
def test_turns_of_another_form_are_refused(flag, earlier, message):
    with pytest.raises(BadInput, match=message):
        checked(Query("What?", image=flag, earlier=earlier))
