"""`liveedit serve`: serve a model over HTTP, and correct its answers while it serves."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from liveedit.cli.display import interrupt_message
from liveedit.cli.options import Loading, with_groups

if TYPE_CHECKING:
    from liveedit.serve.settings import Limits

__all__ = ["serve"]

STORE = "edits.db"


@dataclass(frozen=True)
class Limiting:
    """Options for the limits of a server."""

    max_body: Annotated[int, typer.Option(min=1, help="Megabytes of a request.")] = 32
    max_pixels: Annotated[int, typer.Option(min=1, help="Megapixels of an image.")] = 32
    max_images: Annotated[int, typer.Option(min=0, help="Images of a request.")] = 16
    max_prompt: Annotated[
        int, typer.Option(min=1, help="Tokens of a question, images included.")
    ] = 16_384
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 512
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that wait.")] = 256
    max_batch: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 16
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds for running answers when the server stops.")
    ] = 60

    def limits(self) -> "Limits":
        """The limits."""
        from liveedit.serve.settings import Limits

        return Limits(
            body=self.max_body << 20,
            pixels=self.max_pixels * 1_000_000,
            images=self.max_images,
            prompt=self.max_prompt,
            queue=self.max_queue,
            batch=self.max_batch,
            tokens=self.max_tokens,
            grace=self.grace,
        )


@with_groups
def serve(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            envvar="LIVEEDIT_MODEL",
            help='Model: "emblem" (embedded), a folder, or a Hugging Face id. '
            "Default: that of the store, else emblem.",
        ),
    ] = None,
    store: Annotated[
        str, typer.Option(help="Where the edits are kept: a file, or a database's URL.")
    ] = STORE,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name of the model for clients. Default: the model's own.")
    ] = None,
    editor: Annotated[
        str | None,
        typer.Option(
            help="Name of a method, or folder of a trained editor. "
            "Default: that of the store, else pinpoint for the embedded model, direct for others."
        ),
    ] = None,
    image_hosts: Annotated[
        str, typer.Option(help="Hosts, separated by commas, to fetch images from.")
    ] = "",
    without_tokens: Annotated[
        bool, typer.Option("--without-tokens", help="Let everyone who reaches the server edit.")
    ] = False,
    limiting: Limiting,
    loading: Loading,
) -> None:
    """Serve a model over HTTP, as OpenAI's does, with a page to correct its answers.

    Each option is also an environment variable: LIVEEDIT_STORE, LIVEEDIT_HOST … Tokens are given
    as LIVEEDIT_ASK_TOKENS and LIVEEDIT_EDIT_TOKENS only, separated by commas.
    """
    from liveedit.serve.server import run
    from liveedit.serve.settings import Rights, check_host, is_loopback

    rights = Rights.of_environment()
    check_host(host, rights, without_tokens=without_tokens)
    with interrupt_message("stopped"):
        from liveedit.store.store import Store

        kept = Store(store)
        from liveedit.editable import load_kept  # which takes seconds
        from liveedit.serve.app import application

        edited = load_kept(kept, model, editor, **loading.arguments())
        app = application(
            edited,
            name or Path(edited.opens_with["model"]).name,
            rights=rights,
            limits=limiting.limits(),
            image_hosts=_listed(image_hosts),
            local=is_loopback(host),
        )
        run(app, host, port, limiting.grace, _announce)


def _announce(address: str) -> None:
    """Print where the server listens."""
    Console(soft_wrap=True, highlight=False).print(f"serving at {address}")


def _listed(text: str) -> list[str]:
    """The values of a list with commas."""
    return [value.strip() for value in text.split(",") if value.strip()]
