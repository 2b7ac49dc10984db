"""Rows that Langfuse and Dify export, in the fields of a correction.

===========================  ====================================================================
row                          what is read
===========================  ====================================================================
Langfuse, dataset item       ``input`` and ``expectedOutput``, from the JSON or CSV of the page, or
                             from ``GET /api/public/dataset-items``; archived ones are left out
Langfuse, trace with scores  ``input`` and the score of type ``CORRECTION``, from ``GET
                             /api/public/traces/{id}``; traces without a correction are left out
Dify, annotation             ``Question`` and ``Answer`` of the CSV, in English or Chinese;
                             ``messages`` of the JSONL; ``question`` and ``answer`` of ``GET
                             /apps/annotations``
chat for fine-tuning         ``messages``, as OpenAI's fine-tuning reads them, with images
===========================  ====================================================================

An ``input`` is a text, an object with ``question`` (or ``query``, ``prompt``) and ``image``, or the
messages of a chat with one question; system messages are left out. An object ``metadata`` may hold
further fields of a correction, such as ``image``.
"""

import json
from collections.abc import Mapping
from typing import Any

from liveedit.errors import BadInput

__all__ = ["FIELDS", "HEADINGS", "OTHER_NAMES", "translated"]

Fields = Mapping[str, Any]

FIELDS = ("image", "question", "answer", "who", "why", "paraphrases", "more_images")
"""The fields of a correction."""
OTHER_NAMES = {"images": "image", "paraphrase": "paraphrases", "more_image": "more_images"}
"""Other names of fields, and the fields that they mean."""
DIFY_HEADERS = (
    {"Question": "question", "Answer": "answer"},
    {"问题": "question", "答案": "answer"},
)
DIFY_EXTRA = {"id", "hit_count", "created_at"}
"""Fields of Dify's interface besides question and answer."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a text before which Dify writes an apostrophe, against formulas in spreadsheets."""
QUESTIONS = ("question", "query", "prompt", "text", "input")
ANSWERS = ("answer", "output", "content", "text", "response")
IMAGES = ("image", "images", "image_url", "image_path")
HEADINGS = {
    *(*FIELDS, *OTHER_NAMES, "问题", "答案", "messages"),
    *("input", "expectedoutput", "expected_output", "scores", "datatype"),
}
"""Names of columns, in lower case, of which a table of corrections has some."""
MEDIA = "@@@langfuseMedia:"
"""Beginning of the reference with which Langfuse replaces an image."""


def translated(fields: Fields) -> Fields | None:
    """A row in the fields of a correction; its own fields where it is no export.

    ``None`` for a row that holds no correction. Raises :class:`BadInput` for an export that cannot
    be read as one, and for an image that Langfuse keeps.
    """
    found = _translated(fields)
    _check_images(found.get("image") if found else None)
    return found


def _translated(fields: Fields) -> Fields | None:
    """A row as :func:`translated`, with images that may be references into Langfuse."""
    if "expectedOutput" in fields or "expected_output" in fields:
        return _dataset_item(fields)
    if fields.get("dataType") == "CORRECTION":
        raise BadInput(
            "a Langfuse score does not hold the question: export the traces with their scores, "
            "or dataset items"
        )
    if "scores" in fields and "input" in fields:
        return _trace(fields)
    if "messages" in fields:
        return _chat(fields["messages"])
    return _annotation(fields)


# Langfuse


def _dataset_item(fields: Fields) -> Fields | None:
    if fields.get("status") == "ARCHIVED":
        return None
    expected = fields.get("expectedOutput", fields.get("expected_output"))
    return {
        **_asked(_json(fields.get("input"))),
        "answer": _answer(_json(expected)),
        **_own(_json(fields.get("metadata"))),
    }


def _trace(fields: Fields) -> Fields | None:
    scores = _json(fields["scores"])
    rows = [score for score in scores if isinstance(score, dict)] if _is_list(scores) else []
    found = [score for score in rows if score.get("dataType") == "CORRECTION"]
    if not found:
        return None
    score = found[-1]
    return {
        **_asked(_json(fields["input"])),
        "answer": _answer(_json(score.get("value") or score.get("stringValue"))),
        "who": score.get("authorUserName") or score.get("authorUserId"),
        "why": score.get("comment"),
        **_own(_json(fields.get("metadata"))),
    }


def _json(value: Any) -> Any:
    """A value, or what a text holds as JSON: in a CSV every value is such a text."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "[", '"'):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _own(metadata: Any) -> dict[str, Any]:
    """The fields of a correction in an item's metadata."""
    if not isinstance(metadata, dict):
        return {}
    return {name: value for name, value in metadata.items() if name in FIELDS}


def _asked(value: Any) -> dict[str, Any]:
    """Question and image of an input."""
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    if _is_list(value):
        return _question(value)
    if isinstance(value, dict):
        return {"question": _first(value, QUESTIONS), "image": _image(_first(value, IMAGES))}
    return {"question": value}


def _answer(value: Any) -> Any:
    """The text of an expected output."""
    if _is_list(value) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = _first(value, ANSWERS)
    return _text(value) if _is_list(value) else value


def _first(value: Fields, names: tuple[str, ...]) -> Any:
    """The value of the first of these names that an object has."""
    return next((value[name] for name in names if value.get(name) is not None), None)


# Chats


def _chat(messages: Any) -> Fields:
    """Question and answer of a chat that ends with the answer."""
    messages = _json(messages)
    if not _is_list(messages) or not messages or _role(messages[-1]) != "assistant":
        raise BadInput("its messages do not end with an answer of the assistant: add it")
    return {**_question(messages[:-1]), "answer": _answer(messages[-1])}


def _question(messages: list[Any]) -> dict[str, Any]:
    """Question and images of the one message of the user.

    Raises :class:`BadInput` for a chat with another number of turns.
    """
    asked = [message for message in messages if _role(message) == "user"]
    turns = [message for message in messages if _role(message) != "system"]
    if len(asked) != 1 or len(turns) != 1:
        raise BadInput(
            f"a chat of {len(turns)} messages is no single question: keep the one that is answered"
        )
    content = asked[0].get("content")
    if not _is_list(content):
        return {"question": content}
    images = [_image(part) for part in content if _kind(part) in ("image_url", "input_image")]
    return {"question": _text(content), "image": images}


def _text(content: list[Any]) -> str:
    """The texts among the parts of a message."""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _image(value: Any) -> Any:
    """The path or address of an image, however deep an interface nests it."""
    while isinstance(value, dict):
        value = value.get("image_url", value.get("url"))
    return value


def _check_images(given: Any) -> None:
    """Raise :class:`BadInput` for a reference into Langfuse among images."""
    for value in given if _is_list(given) else [given]:
        if isinstance(value, str) and value.startswith(MEDIA):
            raise BadInput(
                "its image is a reference into Langfuse: download it, and give its path as "
                '"image" in the metadata'
            )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


# Dify


def _annotation(fields: Fields) -> Fields:
    """An annotation of Dify in the fields of a correction; any other row as it is."""
    for header in DIFY_HEADERS:
        if set(fields) == set(header):
            return {header[name]: _plain(value) for name, value in fields.items()}
    if {"question", "answer", "hit_count"} <= set(fields):
        return {name: value for name, value in fields.items() if name not in DIFY_EXTRA}
    return fields


def _plain(value: Any) -> Any:
    """A text without the apostrophe that Dify writes before what looks like a formula."""
    if isinstance(value, str) and value.startswith("'") and value[1:].startswith(FORMULAS):
        return value[1:]
    return value
