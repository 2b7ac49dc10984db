"""ChatTemplate: renders one question with a model's chat template, up to where the answer begins.

Templates differ. Some take a message as parts, others as a string; some open a block of thoughts
where the answer should begin; some print today's date, so that the text of a question would change
every day. The form of message that a template takes is determined at its first use, by rendering a
known question.
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
"""The date that every template gets, which is Llama 3's default: with today's, an edit would not
match its own question tomorrow.
"""

CODES = "aAbBdHIjmMpSUwWyYZz"
"""The format codes of ``strftime`` that a template may use after ``%``."""

QUICK = ("enable_thinking", "thinking")
"""Names of a template's switch for thoughts before an answer."""

THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
}
"""The marks that open and close a block of thoughts."""

LINE = "\n"

LISTED = re.compile("['\"]type['\"]")
"""Matches a part of a message that a template has printed as it is."""

QUESTION, ANSWER, MARK = "Which flag is that?", "Norway", "<image>"
"""The messages with which a template is tested."""


def parts(prompt: str, marks: str, count: int) -> Content:
    """The images as parts of the message, then the text."""
    images = [{"type": "image"} for _ in range(count if marks else 0)]
    return [*images, {"type": "text", "text": prompt}]


def marked(prompt: str, marks: str, count: int) -> Content:  # noqa: ARG001
    """One part, a text that begins with the marks of the images."""
    return [{"type": "text", "text": marks + prompt}]


def plain(prompt: str, marks: str, count: int) -> Content:  # noqa: ARG001
    """A string that begins with the marks of the images."""
    return marks + prompt


class ChatTemplate:
    """The chat template of a processor or, where that has none, of a tokenizer.

    Arguments:
        owner: The processor or tokenizer.
        name: "processor" or "tokenizer", for messages.
        forms: Functions that make the content of a message of a prompt, the marks of its images and
            their number; the first that the template takes is used.

    """

    def __init__(
        self, owner: Any, name: str, forms: Sequence[Callable[[str, str, int], Content]]
    ) -> None:
        self.owner = owner
        self.name = name
        self.forms = forms

    @classmethod
    def of(cls, processor: Any) -> "ChatTemplate | None":
        """The template of a processor or of its tokenizer, if any; the latter prefers strings."""
        if getattr(processor, "chat_template", None):
            return cls(processor, "processor", (parts, marked, plain))
        if getattr(processor.tokenizer, "chat_template", None):
            return cls(processor.tokenizer, "tokenizer", (plain, parts, marked))
        return None

    @cached_property
    def source(self) -> str:
        """The source text of the template, with a fixed date; of several templates the default.

        Raises :class:`BadInput` for several templates without a default.
        """
        source = self.owner.chat_template
        if isinstance(source, dict):
            names = ", ".join(sorted(source))
            source = source.get("default")
            if not source:
                raise self.refuse(f"there are several, {names}, and none is the default")
        return (fixed_date() if "strftime_now" in source else "") + str(source)

    def refuse(self, reason: str) -> BadInput:
        """The error for a template that cannot be used."""
        whose = f"the chat template of the model's {self.name}"
        return BadInput(f"{whose} cannot be used: {reason}; ask in the prompt format 'raw'")

    def apply(self, messages: Sequence[dict[str, Any]], *, ask: bool = True) -> str:
        """Render messages; up to where an answer begins, if the template is to ``ask`` for one."""
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
        """Render one message of the user, up to where the answer begins."""
        return self.apply([{"role": "user", "content": content}])

    def message(self, role: str, text: str, marks: str, count: int) -> dict[str, Any]:
        """One turn about ``count`` images, as the template takes it.

        ``marks`` is the text for the images, where the template does not write that itself.
        """
        return {"role": role, "content": self.form(text, marks, count)}

    def chat(self, messages: Sequence[dict[str, Any]]) -> str:
        """Render turns, the question last, up to the answer."""
        return self.apply(messages) + self.closing

    @cached_property
    def form(self) -> Callable[[str, str, int], Content]:
        """The form in which the template takes a message.

        The first with which the rendered text shows question and image, once each, and no printed
        list of parts. Raises :class:`BadInput` where there is none.
        """
        failed: BadInput | None = None
        for form in self.forms:
            try:
                if self.takes(form):
                    return form
            except BadInput as error:
                failed = failed or error
        raise failed or self.refuse("it leaves out the question or the image")

    def takes(self, form: Callable[[str, str, int], Content]) -> bool:
        """Whether the template renders messages of this form, with and without an image."""
        text = self.asked(form(QUESTION, MARK, 1))
        bare = self.asked(form(QUESTION, "", 0))
        shows_image = text != bare if form is parts else MARK in text
        return shows_image and all(
            each.count(QUESTION) == 1 and not LISTED.search(each) for each in (text, bare)
        )

    @property
    def shows_images(self) -> bool:
        """Whether the template itself writes the text for an image; ``False`` if it is unusable."""
        try:
            return self.form is parts
        except BadInput:
            return False

    @cached_property
    def closing(self) -> str:
        """The text that closes a block of thoughts which the template opens before an answer."""
        tail = self.asked(self.form(QUESTION, "", 0)).rpartition(QUESTION)[2]
        for begin, end in THOUGHTS.items():
            if tail.rfind(begin) > tail.rfind(end):
                line_end = "" if tail.endswith(LINE) else LINE
                return f"{line_end}{LINE}{end}{LINE}{LINE}"
        return ""

    @cached_property
    def gap(self) -> str | None:
        """The text between the end of a rendered question and an answer; ``None`` if unknown."""
        question = {"role": "user", "content": self.form(QUESTION, "", 0)}
        answer: Content = ANSWER
        if not isinstance(question["content"], str):
            answer = [{"type": "text", "text": ANSWER}]
        try:
            whole = self.apply([question, {"role": "assistant", "content": answer}], ask=False)
        except BadInput:  # a template for one turn
            return None
        asked = self.apply([question])
        gap, found, _ = whole.removeprefix(asked).partition(ANSWER)
        return gap if found and whole.startswith(asked) and not gap.strip() else None


def fixed_date() -> str:
    """A Jinja macro that overrides ``strftime_now`` by :data:`DAY`; it prints nothing itself."""
    swaps = "".join(f"|replace('%{code}', '{DAY.strftime(f'%{code}')}')" for code in CODES)
    body = f"{{{{ format|replace('%-', '%'){swaps} }}}}"
    return f"{{% macro strftime_now(format) %}}{body}{{% endmacro %}}{{{{ '' }}}}"
