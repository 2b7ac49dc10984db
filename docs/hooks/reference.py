"""Generate the reference from the code: MkDocs runs this as a hook, so that no page can go stale.

The command line is read from the commands themselves, settings from the configurations, fields of
records from their class, and the Python pages name modules for mkdocstrings. :func:`pages` needs
no MkDocs; ``tests/test_docs.py`` calls it, too.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from inspect import cleandoc, getdoc
from itertools import chain
from pkgutil import iter_modules
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from liveedit.settings import own_descriptions

__all__ = ["on_files", "on_post_page", "pages"]

PYTHON: dict[str, tuple[str, tuple[str, ...]]] = {
    "liveedit": (
        "Load and edit a model",
        (
            "liveedit.editable",
            "liveedit.types",
            "liveedit.steering.*",
            "liveedit.store.listing",
            "liveedit.models.edited_model",
            "liveedit.hub.card",
        ),
    ),
    "data": (
        "Benchmarks and images",
        ("liveedit.data", "liveedit.data.corrections", "liveedit.data.emblem"),
    ),
    "models": (
        "Models, batches, patches",
        (
            "liveedit.models.vlm",
            "liveedit.models.encoder",
            "liveedit.models.batch",
            "liveedit.models.patch",
            "liveedit.models.tiny",
            "liveedit.models",
        ),
    ),
    "editors": (
        "Base classes of editors",
        (
            "liveedit.editors",
            "liveedit.editors.base",
            "liveedit.editors.common.*",
        ),
    ),
    "train": ("Training", ("liveedit.train", "liveedit.train.config", "liveedit.train.loop")),
    "evaluate": ("Evaluation", ("liveedit.evaluate", "liveedit.measures.*")),
    "report": ("Reports", ("liveedit.report",)),
    "errors": ("Errors", ("liveedit.errors",)),
}
"""Title and modules of each Python page, by its name; one page more holds the methods."""


def pages() -> dict[str, str]:
    """The generated pages by their paths within ``docs``."""
    found = {f"reference/python/{name}.md": python(*page) for name, page in PYTHON.items()}
    return found | {
        "reference/python/methods.md": python("Editing methods", methods()),
        "reference/command-line.md": command_line(),
        "reference/configs.md": configs(),
        "reference/records.md": records(),
    }


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those that MkDocs has found."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


FETCHED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
"""A tag that makes a browser fetch something from elsewhere."""


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001
    """Refuse a page that would fetch anything from the network when it is viewed."""
    from mkdocs.exceptions import PluginError

    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches from the network: {found[0]}")
    return output


# Python


def methods() -> tuple[str, ...]:
    """The modules of all registered methods, each once."""
    from liveedit.editors import EDITORS

    return tuple(dict.fromkeys(method(name)[0].__module__ for name in EDITORS))


def method(name: str) -> tuple[Any, str]:
    """The class of a registered method, and where it was published."""
    from liveedit.editors import EDITORS
    from liveedit.registry import resolve

    return resolve("editor", name, EDITORS), EDITORS[name].paper


def python(title: str, modules: tuple[str, ...]) -> str:
    """A page that shows the public names of some modules."""
    parts = [f"# {title}\n"]
    shown = chain.from_iterable(map(inside, modules))
    parts += [f"::: {module}\n" for module in shown]
    return "\n".join(parts)


def inside(name: str) -> Iterator[str]:
    """The module of this name; of ``package.*`` all modules within the package."""
    if not name.endswith(".*"):
        yield name
        return
    package = import_module(name.removesuffix(".*"))
    for found in iter_modules(package.__path__, f"{package.__name__}."):
        yield found.name


# The command line


def command_line() -> str:
    """The commands of `liveedit`, their arguments and options."""
    from liveedit.cli import app

    parts = [
        "# Command line\n",
        "`liveedit COMMAND --help` prints the same in the terminal. A mistake is one line on\n"
        "standard error and exit status 1; an unknown option or command has status 2, an edit\n"
        "that did not take status 3, and Ctrl-C status 130.\n",
    ]
    for name, command in commands(typer.main.get_command(app), "liveedit"):
        parts.append(described(name, command))
    return "\n".join(parts)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that can be run, with its full name; groups before what they hold."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, each in inner.items():
        yield from commands(each, f"{name} {word}")


def described(name: str, command: Any) -> str:
    """The section of one command: usage, help text, a table of arguments and one of options."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = [name, *(usage_of(each) for each in arguments)]
    if options:
        usage.append("[OPTIONS]")
    parts = [f"## {name}\n", cleandoc(command.help or "") + "\n"]
    parts.append(f"```text\n{' '.join(usage)}\n```\n")
    if arguments:
        parts.append(table(("argument", "meaning"), map(argument_row, arguments)))
    if options:
        parts.append(table(("option", "default", "meaning"), map(option_row, options)))
    return "\n".join(parts)


def usage_of(argument: Any) -> str:
    """An argument as the line of usage shows it."""
    word = argument.name.upper()
    if argument.nargs != 1:
        return f"{word}…"
    return word if argument.required else f"[{word}]"


def argument_row(argument: Any) -> tuple[str, ...]:
    return f"`{argument.name.upper()}`", cell(argument.help or "")


def option_row(option: Any) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    default = "required" if option.required else shown_default(option.default)
    return names, default, cell(option.help or "")


def shown_default(value: Any) -> str:
    """A default as code; empty where nothing is the default."""
    return "" if value is None or callable(value) or not is_plain(value) else f"`{value}`"


def is_plain(value: Any) -> bool:
    """Whether a default is a value that a user could type."""
    from pathlib import Path

    return isinstance(value, bool | int | float | str | Path)


# Settings and records


def configs() -> str:
    """The settings of training and of every method."""
    from liveedit.editors import EDITORS
    from liveedit.train import TrainConfig, TrainFile

    parts = [
        "# Settings\n",
        "Settings of a method go into `new_editor(vlm, NAME, SETTINGS)`, or into the part\n"
        "`editor` of the file that `liveedit train --config` takes; settings of the training go\n"
        "into the part `training`. Unknown names and values out of range are refused.\n",
        fielded("The file of `--config`", TrainFile),
        fielded("Training", TrainConfig),
    ]
    for name in sorted(EDITORS):
        editor, paper = method(name)
        parts.append(fielded(name, editor.Config, paper))
    return "\n".join(parts)


def records() -> str:
    """The fields of a record and of what fired."""
    from liveedit.types import Firing, Record

    parts = [
        "# Records\n",
        "`liveedit eval` writes one record per probe, a line of JSON, into `records-LABEL.jsonl`.\n"
        "A report is made from records alone, without the model.\n",
        fielded("Record", Record),
        fielded("Firing", Firing),
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class Documented:
    """Docstring of a class, without its list of arguments, and the meaning of each field."""

    text: str
    meanings: Mapping[str, str]


def fielded(title: str, kind: type, origin: str = "") -> str:
    """A section with a class's docstring and a table of its fields."""
    about = documented(kind)
    parts = [f"## {title}\n"]
    if origin:
        parts.append(f"{origin[0].upper()}{cell(origin[1:])}.\n")
    parts.append(f"{about.text}\n")
    rows = [field_row(each, about.meanings) for each in fields(kind)]  # type: ignore[arg-type]
    if about.meanings:
        return "\n".join([*parts, table(("field", "type", "default", "meaning"), rows)])
    return "\n".join([*parts, table(("field", "type", "default"), (row[:3] for row in rows))])


def field_row(each: "Field[Any]", meanings: Mapping[str, str]) -> tuple[str, ...]:
    default = f"`{each.default!r}`" if each.default is not MISSING else ""
    return f"`{each.name}`", f"`{type_name(each.type)}`", cell(default), meanings.get(each.name, "")


ARGUMENTS = re.compile(r"^Arguments:\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)
"""The list of arguments in a docstring."""


def documented(kind: type) -> Documented:
    """Read the docstring of a class; fields of base classes have the meaning given there."""
    meanings: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        for name, meaning in own_descriptions(each).items():
            meanings[name] = cell(plain(meaning))
    text = ARGUMENTS.sub("", f"{getdoc(kind) or ''}\n").strip()
    return Documented(plain(text), meanings)


# Markdown


def table(heads: tuple[str, ...], rows: Any) -> str:
    """A table in Markdown."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """A text on one line, as it may stand in a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def plain(text: str) -> str:
    """A docstring in Markdown: roles and double backquotes become code."""
    return re.sub(r"(?::\w+:)?``?~?([^`]+)``?", r"`\1`", text)


def type_name(kind: Any) -> str:
    """A type as its source says it, without bounds."""
    if isinstance(kind, str):
        return kind.replace("|", "\\|")
    if get_origin(kind) is Annotated:
        return type_name(get_args(kind)[0])
    if isinstance(kind, type) and not get_args(kind):
        return "None" if kind is type(None) else kind.__name__
    if get_origin(kind) in (Union, UnionType):
        return " \\| ".join(type_name(each) for each in get_args(kind))
    return re.sub(r"\b(?:typing|liveedit|collections)[\w.]*\.", "", str(kind)).replace("|", "\\|")
