"""Answers every error in OpenAI's form, a request that is not as described in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from liveedit.errors import LiveEditError
from liveedit.serve.problems import Problem, answered

__all__ = ["install"]

WORDS = {
    "missing": "is missing",
    "dict_type": "should be an object",
    "model_attributes_type": "should be an object",
    "model_type": "should be an object",
    "string_type": "should be a text",
    "string_unicode": "should be a text in Unicode",
    "list_type": "should be a list",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "union_tag_not_found": "needs a type",
    "union_tag_invalid": "should be of the type {expected_tags}, not {tag!r:.80}",
    "string_too_short": "should have at least {min_length} characters",
    "string_too_long": "should have at most {max_length:,} characters",
    "too_short": "should have at least {min_length:,}, not {actual_length:,}",
    "too_long": "should have at most {max_length:,}, not {actual_length:,}",
    "timezone_aware": "should say its time zone, as in 2030-01-31T12:00:00Z",
}
"""The words for an error, by its type; of other types pydantic's are taken."""


def install(app: FastAPI) -> None:
    """Let an application answer every error in this form."""

    async def known(_request: Request, error: Exception) -> JSONResponse:
        return answered(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem(request, error).response()

    for kind in (Problem, LiveEditError, HTTPException):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)


def problem(request: Request, error: RequestValidationError) -> Problem:
    """The problem to report: the error that lies deepest, for it says most."""
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        why = errors[0]["ctx"]["error"]
        return Problem(400, f"the body is not JSON, at character {errors[0]['loc'][1]}: {why}")
    places = [_place(each, error.body) for each in errors]
    deepest = max(places, key=len)
    if not deepest and not _is_json(request):
        return Problem(
            415,
            "send JSON, with the header Content-Type: application/json",
            code="unsupported_media_type",
        )
    here = [each for each, place in zip(errors, places, strict=True) if place == deepest]
    param = ".".join(map(str, deepest))
    return Problem(400, f"{param or 'the body'}: {_said(here)}", param=param or None)


def _is_json(request: Request) -> bool:
    """Whether a request says that its body is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _place(error: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """Where in a request an error is, without the names of alternatives that pydantic adds."""
    start, *parts = error["loc"]
    if start != "body":
        return tuple(parts)
    found: list[str | int] = []
    for number, part in enumerate(parts, start=1):
        inside = isinstance(part, int) if isinstance(body, list) else _has(body, part)
        if inside:
            body = body[part]
        if inside or (error["type"] == "missing" and number == len(parts)):
            found.append(part)
    return tuple(found)


def _has(body: Any, part: str | int) -> bool:
    """Whether a part of a body is an object with this field."""
    return isinstance(body, dict) and part in body


def _said(errors: Sequence[Mapping[str, Any]]) -> str:
    """The words for the errors at one place, where several alternatives may fail."""
    told = [each for each in errors if not each["type"].endswith("_type")] or errors
    words = dict.fromkeys(_words(each) for each in told)
    return " or ".join(words).replace(" or should be ", " or ")


def _words(error: Mapping[str, Any]) -> str:
    """The words for one error."""
    if error["type"] in WORDS:
        return WORDS[error["type"]].format_map(error.get("ctx", {}))
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return str(said[:1].lower() + said[1:])
