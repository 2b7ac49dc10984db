"""The application: its routes, and what lives as long as it does."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, FastAPI, Response, Security
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles

from liveedit.editable import EditableVLM
from liveedit.errors import BadInput
from liveedit.serve import chat, checking, edits, invalid, problems, reference
from liveedit.serve.engine import Engine
from liveedit.serve.gate import Gate
from liveedit.serve.hits import Hits
from liveedit.serve.images import Pictures
from liveedit.serve.metrics import Metrics
from liveedit.serve.service import Given, Service, Turnstile
from liveedit.serve.settings import Limits, Rights
from liveedit.store.browsing import in_force

__all__ = ["application"]

PAGE = Path(__file__).parent / "page"
TOKEN = [Security(HTTPBearer(auto_error=False))]
"""Says in the description that a route needs a token; the gate checks it."""
own = APIRouter()


def application(
    model: EditableVLM,
    name: str,
    *,
    rights: Rights | None = None,
    limits: Limits | None = None,
    image_hosts: Sequence[str] = (),
    local: bool = True,
) -> FastAPI:
    """An ASGI application that serves a model under a name; the model's edits are in a store.

    When it ends it closes the connections of the store, which opens others when it is used again.
    ``local`` is whether only this machine reaches it; see :class:`Gate`. Raises :class:`BadInput`
    for a model without a store.
    """
    store = model.store
    if store is None:
        raise BadInput("a server keeps its edits in a store: load the model with one")
    limits = limits or Limits()
    rights = rights or Rights()
    metrics = Metrics()
    hits = Hits(store)
    engine = Engine(model, limits, metrics, hits)
    metrics.watch(lambda: engine.queued, lambda: in_force(store))

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(engine.close)
        await anyio.to_thread.run_sync(hits.close)
        await anyio.to_thread.run_sync(store.close)  # puts SQLite's log into the file

    app = FastAPI(
        title="LiveEdit",
        version=version("liveedit"),
        description="A vision-language model whose answers can be corrected while it serves.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=problems.FAILURES,
    )
    pictures = Pictures(limits.pixels, limits.body, image_hosts)
    app.state.service = Service(
        name,
        model,
        store,
        limits,
        engine,
        pictures,
        metrics,
        Turnstile(limits.queue),
        anyio.Lock(),
    )
    invalid.install(app)
    app.add_middleware(Gate, rights=rights, metrics=metrics, most=limits.body, local=local)
    for routes in (chat.routes, edits.routes, checking.routes):
        app.include_router(routes, dependencies=TOKEN)
    for routes in (own, reference.routes):
        app.include_router(routes)
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    return app


@own.get("/health", tags=["Server"])
def health(service: Given) -> dict[str, Any]:
    """Whether the server works, and with what."""
    return {
        "status": "ok",
        "model": service.name,
        "editor": service.model.editor.name,
        "edits": in_force(service.store),
        "version": service.store.version,
    }


@own.get("/metrics", tags=["Server"], response_class=Response, dependencies=TOKEN)
def counts(service: Given) -> Response:
    """Counts for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@own.get("/", include_in_schema=False)
def front() -> FileResponse:
    """The page."""
    return FileResponse(PAGE / "index.html")
