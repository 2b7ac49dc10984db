"""The model of a command that may run in several processes, each of which has a device of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM

__all__ = ["LAST_SEED", "DeviceMap", "Dtype", "PromptForm", "Quantize", "load_here", "options"]

DTYPES = ("bfloat16", "float16", "float32")
FORMS = ("raw", "chat", "vlkeb")
BITS = ("8bit", "4bit")
LAST_SEED = 2**32 - 1
"""The largest number that every generator takes for a seed (:data:`liveedit.settings.Seed`)."""
MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")

Dtype = Annotated[
    str | None, typer.Option(help=f"{', '.join(DTYPES)}; default: the checkpoint's own.")
]
PromptForm = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(FORMS)}; default: chat if the model has a template, else raw."),
]
Quantize = Annotated[
    str | None, typer.Option(help=f"Read the weights in fewer bits: {' or '.join(BITS)}.")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help=f"Where the layers go: {', '.join(MAPS)}; auto: all devices, then memory, then disk."
    ),
]


def options(
    dtype: str | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
    prompt_format: str | None = None,
) -> dict[str, Any]:
    """What these options of a command are to ``VLM.load``. Raises :class:`BadInput` for a value
    that there is not.
    """
    given = {
        "dtype": (dtype, DTYPES),
        "quantize": (quantize, BITS),
        "device_map": (device_map, MAPS),
    }
    given["prompt_format"] = prompt_format, FORMS
    for name, (value, known) in given.items():
        if value not in (None, *known):
            raise BadInput(
                f"there is no --{name.replace('_', '-')} '{value}': choose {', '.join(known)}"
            )
    found: dict[str, Any] = {name: value for name, (value, _) in given.items() if value is not None}
    if dtype is not None:
        import torch

        found["dtype"] = getattr(torch, dtype)
    return found


def load_here(model: str, asked: Mapping[str, Any]) -> "VLM":
    """The model as :func:`options` ask for it, on this process's GPU if there is one, otherwise on
    the CPU.
    """
    from liveedit.editable import load_vlm
    from liveedit.evaluate import processes

    device = processes().device
    return load_vlm(model, **{"device_map": device if device.type == "cuda" else None, **asked})
