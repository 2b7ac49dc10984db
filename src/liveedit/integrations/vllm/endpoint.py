"""Endpoint: vLLM's API server with the routes of this project's own, and the unedited model.

    VLLM_PLUGINS=liveedit,liveedit_edits vllm serve MODEL

`/v1/edits` and the page are answered by the application of `liveedit serve`, which keeps its edits
in the same store, and all else by vLLM. That application has the model once more, since edits need
gradients and states that vLLM does not give; LIVEEDIT_DEVICE says where, by default the CPU. Tokens
are those of `liveedit serve` (LIVEEDIT_EDIT_TOKENS …); vLLM's own routes have vLLM's `--api-key`.

The name of the model with ":base" asks the unedited one.
"""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveedit.editable import EMBEDDED, default_editor, embedded, load
from liveedit.integrations.vllm.requests import OFF
from liveedit.integrations.vllm.variables import DEVICE, STORE
from liveedit.serve.app import application
from liveedit.serve.settings import Rights, check_host, is_loopback
from liveedit.store.store import Store

__all__ = ["Edits"]

OWN = ("/v1/edits", "/page")
"""Beginnings of the paths that this project's application answers; "/" is the page, too."""
ASKING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
BASE = ":base"


class Edits:
    """The entry point of vLLM's endpoint plug-ins."""

    name = "liveedit_edits"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.application: ASGIApp | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Put the front before vLLM's application."""
        app.add_middleware(Front, plugin=self)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load the model for edits, and name the unedited model."""
        models = state.openai_serving_models
        for path in list(models.base_model_paths):
            unedited = type(path)(name=f"{path.name}{BASE}", model_path=path.model_path)
            models.base_model_paths.append(unedited)
        name = models.base_model_paths[0].name
        host = args.host or "0.0.0.0"  # vLLM's default
        self.application = await run_sync(_application, name, engine_client.model_config, host)


class Front:
    """Sends each request to the application that answers it."""

    def __init__(self, app: ASGIApp, plugin: Edits) -> None:
        self.app = app
        self.plugin = plugin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        own = self.plugin.application
        if scope["type"] == "http" and own and (path == "/" or path.startswith(OWN)):
            await own(scope, receive, send)
        elif scope["type"] == "http" and path in ASKING:
            await self.app(scope, Renamed(receive), send)
        else:
            await self.app(scope, receive, send)


class Renamed:
    """Receives the body of a question; one to the unedited model says so to the worker."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.read = False

    async def __call__(self) -> Message:
        """The next message: first the whole body, then whatever follows."""
        if self.read:
            return await self.receive()
        self.read = True
        body = b""
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            if not message.get("more_body"):
                return {"type": "http.request", "body": _renamed(body), "more_body": False}


def _renamed(body: bytes) -> bytes:
    """The body of a question, marked where it is to the unedited model."""
    try:
        asked = json.loads(body)
    except ValueError:
        return body  # which vLLM refuses
    named = asked.get("model") if isinstance(asked, dict) else None
    if not isinstance(named, str) or not named.endswith(BASE):
        return body
    asked["vllm_xargs"] = {**(asked.get("vllm_xargs") or {}), OFF: 1}
    return json.dumps(asked).encode()


def _application(name: str, config: Any, host: str) -> ASGIApp:
    """The application of `liveedit serve` on the same store.

    Raises :class:`BadInput` for a host that others reach, where they need no token.
    """
    rights = Rights.of_environment()
    check_host(host, rights, without_tokens=False)
    store = Store(os.environ[STORE])
    maker = store.newest_maker()
    model = EMBEDDED if Path(config.model) == embedded("vlm") else config.model
    editor = default_editor(model, store)
    if maker and model != EMBEDDED:
        editor = maker.opens_with.get("editor", maker.editor)
    form: Any = maker.opens_with.get("prompt_format") if maker else None
    options = {"dtype": config.dtype, "prompt_format": form, "device_map": os.environ.get(DEVICE)}
    edited = load(model, editor, store, **options)
    return application(edited, name, rights=rights, local=is_loopback(host))
