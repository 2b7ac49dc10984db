"""Endpoints: vLLM's API server with the unedited model, what fired, and the routes of edits.

    VLLM_PLUGINS=liveedit vllm serve MODEL                    questions alone
    VLLM_PLUGINS=liveedit,liveedit_edits vllm serve MODEL     edits, too

Questions are answered by vLLM; :mod:`liveedit.integrations.vllm.asking` stands before it. With the
second plug-in `/v1/edits` and the page are answered by the application of `liveedit serve`, which
keeps its edits in the same store. That application has the model once more, since edits need
gradients and states that vLLM does not give; LIVEEDIT_DEVICE says where, by default the CPU. Tokens
are those of `liveedit serve` (LIVEEDIT_EDIT_TOKENS …); vLLM's own routes have vLLM's `--api-key`.
"""

import os
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveedit.editable import EMBEDDED, embedded, load_kept
from liveedit.integrations.vllm.asking import BASE, Asking
from liveedit.integrations.vllm.variables import DEVICE, STORE
from liveedit.serve.app import application
from liveedit.serve.settings import Rights, check_host, is_loopback
from liveedit.store.store import Store

__all__ = ["Answers", "Edits"]

OWN = ("/v1/edits", "/page")
"""Beginnings of the paths that this project's application answers; "/" is the page, too."""


class Answers:
    """The entry point of vLLM's endpoint plug-ins for questions."""

    name = "liveedit"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.engine: Any = None

    def attach_router(self, app: FastAPI) -> None:
        """Stand before vLLM's application, if there is a store."""
        if os.environ.get(STORE):
            app.add_middleware(Asking, report=self.report)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:  # noqa: ARG002
        """Name the unedited model."""
        if not os.environ.get(STORE):
            return
        self.engine = engine_client
        models = state.openai_serving_models
        for path in list(models.base_model_paths):
            unedited = type(path)(name=f"{path.name}{BASE}", model_path=path.model_path)
            models.base_model_paths.append(unedited)

    async def report(self, id: str) -> dict[str, Any] | None:
        """The fields that the answer with this id gets (:meth:`Reports.of`)."""
        found = await self.engine.collective_rpc("liveedit_report", args=(id,))
        report: dict[str, Any] | None = found[0]
        return report


class Edits:
    """The entry point of vLLM's endpoint plug-ins for edits."""

    name = "liveedit_edits"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.application: ASGIApp | None = None
        self.running = AsyncExitStack()
        """Ends the application."""

    def attach_router(self, app: FastAPI) -> None:
        """Put the front before vLLM's application."""
        app.add_middleware(Front, plugin=self)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load the model for edits."""
        name = state.openai_serving_models.base_model_paths[0].name
        host = args.host or "0.0.0.0"  # vLLM's default
        own = await run_sync(_application, name, engine_client.model_config, host)
        await self.running.enter_async_context(own.router.lifespan_context(own))
        self.application = own


class Front:
    """Sends each request to the application that answers it."""

    def __init__(self, app: ASGIApp, plugin: Edits) -> None:
        self.app = app
        self.plugin = plugin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; when vLLM's server ends, so does this project's application."""
        if scope["type"] == "lifespan":
            await self.app(scope, self._until_the_end(receive), send)
            return
        path = scope.get("path", "")
        own = self.plugin.application
        if scope["type"] == "http" and own and (path == "/" or path.startswith(OWN)):
            await own(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _until_the_end(self, receive: Receive) -> Receive:
        """Receive the messages of the server's life."""

        async def next_message() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.plugin.running.aclose()
            return message

        return next_message


def _application(name: str, config: Any, host: str) -> FastAPI:
    """The application of `liveedit serve` on the same store.

    Raises :class:`BadInput` for a host that others reach, where they need no token.
    """
    rights = Rights.of_environment()
    check_host(host, rights, without_tokens=False)
    model = EMBEDDED if Path(config.model) == embedded("vlm") else config.model
    store = Store(os.environ[STORE])
    edited = load_kept(store, model, dtype=config.dtype, device_map=os.environ.get(DEVICE))
    return application(edited, name, rights=rights, local=is_loopback(host))
