"""Errors in OpenAI's form, ``{"error": {"message", "type", "param", "code"}}``; no traceback."""

import json
import logging
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from liveedit.errors import LiveEditError, StorageError, shortage

__all__ = ["FAILURES", "ErrorBody", "Problem", "answered", "too_long"]

LOG = logging.getLogger("liveedit.serve")
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


class Error(BaseModel):
    """A failure: a message that names the remedy, and the parameter at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The answer to a request that failed."""

    error: Error


class Problem(Exception):
    """A request that cannot be answered: the status, and what OpenAI's form says of it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON."""
        error = Error(
            message=str(self),
            type="server_error" if self.status >= 500 else "invalid_request_error",
            param=self.param,
            code=self.code,
        )
        return ErrorBody(error=error).model_dump()

    @property
    def event(self) -> str:
        """The server-sent event that ends a streamed answer."""
        return f"data: {json.dumps(self.body)}\n\n"

    def response(self) -> JSONResponse:
        """The answer to the request."""
        return JSONResponse(self.body, self.status, self.headers)


def too_long(message: str) -> Problem:
    """The problem of a question that has no room."""
    return Problem(400, message, code="context_length_exceeded")


def answered(error: Exception) -> Problem:
    """The problem to report for an error; one that no user can cause is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        code = CODES.get(error.status_code)
        headers = dict(error.headers or {})
        return Problem(error.status_code, error.detail, code=code, headers=headers)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "the request has not arrived whole: send it again", code="cut_off")
    if isinstance(error, StorageError):
        return Problem(503, str(error), code="storage", headers={"Retry-After": "1"})
    if isinstance(error, LiveEditError):
        return Problem(400, str(error))
    if shortage(error):
        return Problem(503, "out of memory: send fewer or smaller images", code="out_of_memory")
    LOG.error("a request failed", exc_info=error)
    return Problem(500, "the server failed; its log has the reason", code="internal_error")


FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is at fault"},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer now"},
}
"""The failures of every route, for its description."""
