"""A model's chat template: what it makes of one question, up to where the answer begins.

Templates are written by many hands. One takes a message as parts, another as a string; one leaves a
thought open where the answer should stand; one prints today's date, so that a question would not be
the same tomorrow. What a template takes is tried out when it is first used, on a question whose
text is known.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from liveedit.errors import BadInput

__all__ = ["ChatTemplate"]

Content = str | list[dict[str, Any]]

DAY = datetime(2024, 7, 26)
"""The date that every template is told, which is the one that Llama 3's has where it knows none:
were it today's, an edit could not be found again tomorrow."""

CODES = "aAbBdHIjmMpSUwWyYZz"
"""The letters behind ``%`` in a format of ``strftime`` that a template may use."""

QUICK = ("enable_thinking", "thinking")
"""What templates call the switch for thoughts before an answer."""

THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
}
"""The marks around a thought."""

LINE = "\n"

LISTED = re.compile("['\"]type['\"]")
"""A part of a message that is printed as it came."""

QUESTION, ANSWER, MARK = "Which flag is that?", "Norway", "<image>"
"""What a template is tried out on."""


def parts(prompt: str, marks: str, count: int) -> Content:
    """The images as parts of the message, and the text."""
    return [
        *({"type": "image"} for _ in range(count if marks else 0)),
        {"type": "text", "text": prompt},
    ]


def marked(prompt: str, marks: str, count: int) -> Content:  # noqa: ARG001
    """A text alone as a part, with what stands for the images in it."""
    return [{"type": "text", "text": marks + prompt}]


def plain(prompt: str, marks: str, count: int) -> Content:  # noqa: ARG001
    """A string, with what stands for the images in it."""
    return marks + prompt


class ChatTemplate:
    """The template of a processor or, where that has none, of a tokenizer."""

    def __init__(
        self, owner: Any, name: str, forms: Sequence[Callable[[str, str, int], Content]]
    ) -> None:
        self.owner, self.name, self.forms = owner, name, forms

    @classmethod
    def of(cls, processor: Any) -> "ChatTemplate | None":
        """The template that a processor brings, if any: its own, or its tokenizer's, which reads
        strings first.
        """
        if getattr(processor, "chat_template", None):
            return cls(processor, "processor", (parts, marked, plain))
        if getattr(processor.tokenizer, "chat_template", None):
            return cls(processor.tokenizer, "tokenizer", (plain, parts, marked))
        return None

    @cached_property
    def source(self) -> str:
        """The text of the template, the default of several, its date fixed.

        Raises :class:`BadInput` for several none of which is the default.
        """
        source = self.owner.chat_template
        if isinstance(source, dict):
            if not (found := source.get("default")):
                names = ", ".join(sorted(source))
                raise self.refuse(f"there are several, {names}, and none is the default")
            source = found
        return (dated() if "strftime_now" in source else "") + str(source)

    def refuse(self, reason: str) -> BadInput:
        """The error for a template that cannot be used."""
        whose = f"the chat template of the model's {self.name}"
        return BadInput(f"{whose} cannot be used: {reason}; ask in the prompt format 'raw'")

    def apply(self, messages: Sequence[dict[str, Any]], *, ask: bool = True) -> str:
        """What the template makes of messages, up to where an answer begins if it is to ``ask`` for
        one.
        """
        switches = {name: False for name in QUICK if re.search(rf"\b{name}\b", self.source)}
        options = {
            "chat_template": self.source,
            "add_generation_prompt": ask,
            "tokenize": False,
            **switches,
        }
        try:
            return str(self.owner.apply_chat_template(list(messages), **options))
        except Exception as error:  # a template may fail in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise self.refuse(f"it says '{reason}'") from error

    def asked(self, content: Content) -> str:
        """What the template makes of one message of the user, up to where the answer begins."""
        return self.apply([{"role": "user", "content": content}])

    def render(self, prompt: str, marks: str, count: int) -> str:
        """The text of a prompt about ``count`` images, for which ``marks`` stands in a text, up to
        the answer.
        """
        return self.asked(self.form(prompt, marks, count)) + self.closing

    @cached_property
    def form(self) -> Callable[[str, str, int], Content]:
        """How the template takes a message with an image.

        The first way in which question and image can be seen in what it writes, and nothing of the
        list they came in. Raises :class:`BadInput` where there is none.
        """
        failed: BadInput | None = None
        for form in self.forms:
            try:
                text, bare = self.asked(form(QUESTION, MARK, 1)), self.asked(form(QUESTION, "", 0))
            except BadInput as error:
                failed = failed or error
                continue
            shown = text != bare if form is parts else MARK in text
            if shown and all(
                each.count(QUESTION) == 1 and not LISTED.search(each) for each in (text, bare)
            ):
                return form
        raise failed or self.refuse("it leaves out the question or the image")

    @property
    def shows_images(self) -> bool:
        """Whether the template itself writes what stands for an image; also ``False`` where it
        cannot be used.
        """
        try:
            return self.form is parts
        except BadInput:
            return False

    @cached_property
    def closing(self) -> str:
        """What ends a thought that the template leaves open where the answer should begin."""
        tail = self.asked(self.form(QUESTION, "", 0)).rpartition(QUESTION)[2]
        for begin, end in THOUGHTS.items():
            if tail.rfind(begin) > tail.rfind(end):
                return f"{'' if tail.endswith(LINE) else LINE}{LINE}{end}{LINE}{LINE}"
        return ""

    @cached_property
    def gap(self) -> str | None:
        """What the template writes between the start of an answer and its text; ``None`` if that
        cannot be told.
        """
        question = {"role": "user", "content": self.form(QUESTION, "", 0)}
        answer = (
            ANSWER if isinstance(question["content"], str) else [{"type": "text", "text": ANSWER}]
        )
        try:
            whole = self.apply([question, {"role": "assistant", "content": answer}], ask=False)
        except BadInput:  # written for one turn
            return None
        asked = self.apply([question])
        gap, found, _ = whole.removeprefix(asked).partition(ANSWER)
        return gap if found and whole.startswith(asked) and not gap.strip() else None


def dated() -> str:
    """A macro of Jinja that hides ``strftime_now`` and tells :data:`DAY`; it writes nothing itself."""
    swaps = "".join(f"|replace('%{code}', '{DAY.strftime(f'%{code}')}')" for code in CODES)
    return f"{{% macro strftime_now(format) %}}{{{{ format|replace('%-', '%'){swaps} }}}}{{% endmacro %}}{{{{ '' }}}}"
