"""Wrappers around or within a model: PEFT's adapters, `torch.compile`, data parallelism."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from wrapt import ObjectProxy

from liveedit.errors import BadInput, UnsupportedModel

__all__ = [
    "acting",
    "adapter_weights",
    "adapters_on",
    "changeable",
    "innermost",
    "named_here",
    "plain",
    "uncompiled",
    "unwrapped",
]

BASE = "base_layer"
"""PEFT's attribute for the layer that adapters are around."""


def unwrapped(model: Any) -> Any:
    """The Hugging Face model within a wrapper, with the adapters in its layers.

    Raises :class:`UnsupportedModel` where there is none, for adapters that act in the wrapper
    alone, and where a part of the model is wrapped.
    """
    if isinstance(model, ObjectProxy):
        return unwrapped(model.__wrapped__)
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if any(config.is_prompt_learning for config in model.peft_config.values()):
            raise UnsupportedModel(
                "PEFT's prompt learning puts tokens before a text outside the model: "
                "use LoRA or another adapter that is in the layers"
            )
        return unwrapped(model.get_base_model())
    if getattr(getattr(model, "config", None), "model_type", None) is None:
        for name in ("_orig_mod", "module"):  # of torch.compile, and of DataParallel and its like
            if isinstance(inner := getattr(model, name, None), nn.Module):
                return unwrapped(inner)
        raise UnsupportedModel(
            f"{type(model).__name__} is no Hugging Face model: pass the one that it wraps"
        )
    inner = getattr(model, "_orig_mod", model)
    parts = inner.modules() if isinstance(inner, nn.Module) else ()
    if any("_orig_mod" in dict(part.named_children()) for part in parts):
        raise UnsupportedModel(
            "torch.compile is around a part of the model, which gives the weights other names: "
            "call the part's own `compile()` in its place"
        )
    return inner


class Uncompiled:
    """Context that turns `torch.compile` off in this process while any thread is in it.

    Compiled code does not see hooks that were registered later. A model may run compiled code
    without the user's request: ``generate`` of transformers compiles on a GPU for a static cache.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0
        self.undo = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Context in which all threads run modules uncompiled.

        Raises :class:`BadInput` when entered within a compiled function.
        """
        with self.lock:
            if not self.users:
                try:
                    stance = torch.compiler.set_stance("force_eager")
                except RuntimeError as error:
                    raise BadInput(
                        "a model cannot answer within a compiled function: compile the model itself"
                    ) from error
                self.undo.enter_context(stance)
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    self.undo.close()


uncompiled = Uncompiled()
"""The one instance for this process."""


def adapted(model: Any) -> Iterator[tuple[str, Any, list[str]]]:
    """PEFT's modules in a model: path, module, and the names of the adapters that are on.

    Adapters that are merged into the weights are left out.
    """
    for path, module in model.named_modules():
        if getattr(module, "adapter_layer_names", ()):
            merged = getattr(module, "merged_adapters", ())
            active = [] if module.disable_adapters else module.active_adapters
            yield path, module, [name for name in active if name not in merged]


def adapters_on(model: Any) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """The adapters that are on: path of the module, names, and scales. Empty where none is on."""
    found = []
    for path, module, on in adapted(model):
        scales = getattr(module, "scaling", {})
        if on:
            found.append((path, tuple(on), str([scales.get(name) for name in on])))
    return tuple(found)


def adapter_weights(model: Any) -> Iterator[Tensor]:
    """The weights of the adapters that are on or merged into the model's weights."""
    for _, module, on in adapted(model):
        used = {*on, *getattr(module, "merged_adapters", ())}
        for name, weight in module.named_parameters():
            if adapter_in(module, name) in used:
                yield weight


def adapter_in(module: Any, name: str) -> str | None:
    """The adapter that a weight of PEFT's ``module`` belongs to; ``None`` for any other weight."""
    part, _, rest = name.partition(".")
    own = part in (*module.adapter_layer_names, *module.other_param_names)
    return rest.split(".")[0] if own else None


def acting(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``state`` that are in use, by their names in the model without adapters.

    With all adapters off they are the weights of the model before it got adapters.
    """
    found = dict(state)
    for path, module, on in adapted(model):
        before = f"{path}."
        for name in [name for name in found if name.startswith(before)]:
            inner = name.removeprefix(before)
            part, _, rest = inner.partition(".")
            adapter = adapter_in(module, inner)
            if part in (BASE, "original_module"):
                found[before + rest] = found.pop(name)
            elif adapter is not None and adapter not in on:
                del found[name]
    return found


def plain(name: str) -> str:
    """The name that a weight has without adapters around its layer."""
    return name.replace(f".{BASE}.", ".")


def named_here(model: Any, name: str) -> str:
    """The name that a weight has in ``model``, with or without adapters around its layer."""
    name = plain(name)
    for path, module, _ in adapted(model):
        if hasattr(module, BASE) and name.startswith(f"{path}."):
            return f"{path}.{BASE}{name.removeprefix(path)}"
    return name


def innermost(path: str, module: Any) -> str:
    """The path of the layer at ``path``, or of the one within its adapters."""
    if not hasattr(module, BASE):
        return path
    return innermost(f"{path}.{BASE}", getattr(module, BASE))


def changeable(module: nn.Module) -> list[str]:
    """The names of a module's parameters, without those of adapters around its layers."""
    names = [name for name, _ in module.named_parameters()]
    for path, inner, _ in adapted(module):
        if hasattr(inner, BASE):
            before = f"{path}." if path else ""
            inside = f"{before}{BASE}"
            names = [
                name for name in names if not name.startswith(before) or name.startswith(inside)
            ]
    return names
