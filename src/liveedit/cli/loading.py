"""The model of a command that may run in several processes, each of which has a device of its own."""

from typing import TYPE_CHECKING, Annotated

import typer

from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM

__all__ = ["Dtype", "PromptForm", "load_here"]

DTYPES = ("bfloat16", "float16", "float32")
FORMS = ("raw", "chat", "vlkeb")

Dtype = Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; default: the checkpoint's own.")]
PromptForm = Annotated[
    str | None, typer.Option(help=f"{', '.join(FORMS)}; default: chat if the model has a template, else raw.")
]


def load_here(model: str, dtype: str | None, prompt_format: str | None) -> "VLM":
    """The model on this process's GPU if there is one, otherwise on the CPU.

    Raises :class:`BadInput` for another ``dtype`` than :data:`DTYPES` and another form of prompts than :data:`FORMS`.
    """
    if dtype not in (None, *DTYPES):
        raise BadInput(f"there is no --dtype '{dtype}': choose {', '.join(DTYPES)}")
    if prompt_format not in (None, *FORMS):
        raise BadInput(f"there is no --prompt-format '{prompt_format}': choose {', '.join(FORMS)}")

    import torch

    from liveedit.editable import load_vlm
    from liveedit.evaluate import processes

    device = processes().device
    options = {"prompt_format": prompt_format, "device_map": device if device.type == "cuda" else None}
    return load_vlm(model, **options | ({"dtype": getattr(torch, dtype)} if dtype else {}))
