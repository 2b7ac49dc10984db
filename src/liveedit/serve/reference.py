"""/docs: the routes as a page that needs neither scripts nor outside resources."""

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

__all__ = ["routes"]

routes = APIRouter()
HERE = files("liveedit.serve")


@routes.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The page, made of the OpenAPI description."""
    style = (HERE / "docs.css").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        (HERE / "docs.html.j2").read_text(encoding="utf-8")
    )
    described: dict[str, Any] = request.app.openapi()
    page = template.render(api=described, style=style)
    allowed = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})
