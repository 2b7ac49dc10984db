"""Options that several commands share, each declared once.

Options that belong together are the fields of a dataclass, a *group*. A command takes a group as
one parameter and is declared with :func:`with_groups`: typer sees the fields as options, the
command gets the group. So a new option for loading the model is one more field of :class:`Loading`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from liveedit.cli.verbose import set_verbose
from liveedit.errors import BadInput
from liveedit.settings import help_of
from liveedit.types import Query, expanded

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM
    from liveedit.types import Case

__all__ = [
    "LAST_SEED",
    "AsJson",
    "Benchmark",
    "Correction",
    "Loading",
    "MaxTokens",
    "Model",
    "Question",
    "Quiet",
    "Who",
    "path",
    "plain",
    "setting_help",
    "with_groups",
]

LAST_SEED = 2**32 - 1
"""The largest :data:`liveedit.settings.Seed`."""

DTYPES = ("bfloat16", "float16", "float32")
FORMATS = ("raw", "chat", "vlkeb")
BITS = ("8bit", "4bit")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")


def path(text: str | Path) -> Path:
    """The path that an option or an argument names; typer shows the name of this function.

    ``~`` is expanded here, because shells leave it in ``--out=~/runs``. Raises :class:`BadInput` as
    :func:`expanded` does.
    """
    return expanded(text)


Model = Annotated[
    str, typer.Option(help='Model: "emblem" (embedded), a folder, or a Hugging Face id.')
]

MaxTokens = Annotated[int, typer.Option(min=1, help="Largest number of tokens of an answer.")]
Who = Annotated[str, typer.Option(envvar="LIVEEDIT_WHO", help="Who makes the change.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and answers.")]


@dataclass(frozen=True)
class Loading:
    """Options for loading the model, and for saying how that goes.

    Raises :class:`BadInput` for an unknown value.
    """

    prompt_format: Annotated[
        str | None,
        typer.Option(
            help=f"Format of prompts: {', '.join(FORMATS)}. "
            "Default: chat if the model has a chat template, else raw."
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help=f"Type of the weights: {', '.join(DTYPES)}. Default: that of the checkpoint."
        ),
    ] = None
    quantize: Annotated[
        str | None, typer.Option(help=f"Quantise the weights: {' or '.join(BITS)}.")
    ] = None
    device_map: Annotated[
        str | None,
        typer.Option(
            help=f"Placement of the layers: {', '.join(DEVICE_MAPS)}. "
            "auto fills all GPUs, then memory, then disk."
        ),
    ] = None

    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Print what is loaded, chosen and timed, on stderr."),
    ] = False

    def __post_init__(self) -> None:
        set_verbose(self.verbose)
        for name, known in (
            ("dtype", DTYPES),
            ("quantize", BITS),
            ("device_map", DEVICE_MAPS),
            ("prompt_format", FORMATS),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                option = name.replace("_", "-")
                raise BadInput(f"there is no --{option} '{value}': choose {', '.join(known)}")

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``VLM.load``: the options that were given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        del given["verbose"]
        found = {name: value for name, value in given.items() if value is not None}
        if self.dtype is not None:
            import torch

            found["dtype"] = getattr(torch, self.dtype)
        return found

    def load(self, model: str) -> "VLM":
        """Load a model; without a device map, on this process's GPU if it has one, else the CPU."""
        from liveedit.editable import load_vlm
        from liveedit.evaluate import processes

        device = processes().device
        default = device if device.type == "cuda" else None
        return load_vlm(model, **{"device_map": default, **self.arguments()})


@dataclass(frozen=True)
class Benchmark:
    """Options that choose a benchmark and its form."""

    data: Annotated[str, typer.Option(help="Benchmark; `liveedit data` lists them.")] = "emblem"
    split: Annotated[str, typer.Option(help="Split of a published benchmark: clean or paper.")] = (
        "clean"
    )
    prompts: Annotated[
        str, typer.Option(help="Prompts of a published benchmark: plain or paper.")
    ] = "plain"

    def cases(self, part: Literal["train", "val", "test"], seed: int) -> "list[Case]":
        """The cases of one part of the benchmark, in the order of ``seed``."""
        from liveedit.data import load_cases

        return load_cases(self.data, part, seed, split=self.split, prompts=self.prompts)


@dataclass(frozen=True)
class Question:
    """A question about images."""

    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")]
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image to show with the question; repeat the option for several."),
    ] = None
    about: Annotated[
        int,
        typer.Option(
            help="Which of several images the question is about, counted from 0; -1: the last."
        ),
    ] = -1

    def query(self, target: str = "") -> Query:
        """The question as a query; a question ``-`` is read from standard input."""
        prompt = sys.stdin.read().strip() if self.prompt == "-" else self.prompt
        return Query(prompt, target, self.image, about=self.about)


@dataclass(frozen=True)
class Correction(Question):
    """A question about images, which is left out where a file holds all of them."""

    prompt: Annotated[str, typer.Argument(help="The question.", show_default=False)] = ""


def plain(description: str) -> str:
    """The description of a setting without the backquotes that mark code."""
    return description.replace("``", "")


def _option_help(config: type[Any], name: str) -> str:
    """The description of a setting for an option's help, with "default" in place of ``None``."""
    return plain(help_of(config, name).replace("``None``", "default"))


def setting_help(configs: Mapping[str, type[Any]] | type[Any], name: str) -> str:
    """The help text of an option that is a setting of a config.

    For several configs, given by label, it lists the descriptions of those that have the setting.
    """
    if isinstance(configs, type):
        return _option_help(configs, name)
    having = {label: kind for label, kind in configs.items() if name in kind.__annotations__}
    return " ".join(f"{label}: {_option_help(kind, name)}" for label, kind in having.items())


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Declare a command for typer: groups among its parameters become the options they hold."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if _is_group(kind)}

    def run(**values: Any) -> None:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**own)
        command(**values)

    parameters = list(_flat(signature(command).parameters, hints))
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def _is_group(kind: Any) -> bool:
    """Whether the type of a parameter is a group of options."""
    return isinstance(kind, type) and is_dataclass(kind)


def _flat(parameters: Mapping[str, Parameter], hints: Mapping[str, Any]) -> Iterator[Parameter]:
    """The parameters of a command, each group replaced by its fields."""
    for name, parameter in parameters.items():
        kind = hints[name]
        if _is_group(kind):
            own = get_type_hints(kind, include_extras=True)
            yield from _flat(signature(kind).parameters, own)
        else:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind)
