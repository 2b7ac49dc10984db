"""What others put around a model or into it: PEFT's adapters, `torch.compile`, data parallelism."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

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
"""What PEFT calls the layer that it has put adapters around."""


def unwrapped(model: Any) -> Any:
    """The Hugging Face model that others have wrapped, with the adapters that they have put into
    its layers.

    Raises :class:`UnsupportedModel` for what wraps none, for adapters that only the wrapper
    applies, and for a part of a model that is wrapped.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if any(config.is_prompt_learning for config in model.peft_config.values()):
            raise UnsupportedModel(
                "PEFT's prompt learning puts tokens before a text outside the model: use LoRA or another adapter that "
                "is in the layers"
            )
        return unwrapped(model.get_base_model())
    if getattr(getattr(model, "config", None), "model_type", None) is None:
        for name in ("_orig_mod", "module"):  # of torch.compile, and of DataParallel and its like
            if isinstance(inner := getattr(model, name, None), nn.Module):
                return unwrapped(inner)
        raise UnsupportedModel(
            f"{type(model).__name__} is no Hugging Face model: hand over the one that it wraps"
        )
    inner = getattr(model, "_orig_mod", model)
    parts = inner.modules() if isinstance(inner, nn.Module) else ()
    if any("_orig_mod" in dict(part.named_children()) for part in parts):
        raise UnsupportedModel(
            "torch.compile is around a part of the model, which gives the weights other names: call the part's own "
            "`compile()` in its place"
        )
    return inner


class Uncompiled:
    """Has nothing that `torch.compile` has compiled run compiled in this process, as long as anyone
    needs it.

    Compiled code does not see hooks that were put on since. It is compiled by whom nobody asked,
    too: by ``generate`` of transformers on a GPU, for a static cache.
    """

    def __init__(self) -> None:
        self.lock, self.users, self.undo = Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within it, whatever the thread, modules are called as they are.

        Raises :class:`BadInput` in what is compiled itself.
        """
        with self.lock:
            if not self.users:
                try:
                    stance = torch.compiler.set_stance("force_eager")
                except RuntimeError as error:
                    raise BadInput(
                        "a model is not asked in a function that is compiled: compile the model"
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


def adapted(model: Any) -> Iterator[tuple[str, Any, list[str]]]:
    """The modules that PEFT has put in, by their paths, each with the adapters that act in it
    besides its weights.
    """
    for path, module in model.named_modules():
        if getattr(module, "adapter_layer_names", ()):
            merged = getattr(module, "merged_adapters", ())
            on = (
                []
                if module.disable_adapters
                else [name for name in module.active_adapters if name not in merged]
            )
            yield path, module, on


def adapters_on(model: Any) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """Which adapters act where, and with what scale; empty where none does."""
    found = []
    for path, module, on in adapted(model):
        scales = getattr(module, "scaling", {})
        found += [(path, tuple(on), str([scales.get(name) for name in on]))] if on else []
    return tuple(found)


def adapter_weights(model: Any) -> Iterator[Tensor]:
    """The weights of the adapters that act, or were added to the model's."""
    for _, module, on in adapted(model):
        used = {*on, *getattr(module, "merged_adapters", ())}
        for name, weight in module.named_parameters():
            part, _, rest = name.partition(".")
            if (
                part in (*module.adapter_layer_names, *module.other_param_names)
                and rest.split(".")[0] in used
            ):
                yield weight


def acting(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``state`` that act, by the names that they have where there are no adapters.

    A model with its adapters off has those that it had before it got them.
    """
    found = dict(state)
    for path, module, on in adapted(model):
        before = f"{path}."
        for name in [name for name in found if name.startswith(before)]:
            part, _, rest = name.removeprefix(before).partition(".")
            if part in (BASE, "original_module"):
                found[before + rest] = found.pop(name)
            elif (
                part in (*module.adapter_layer_names, *module.other_param_names)
                and rest.split(".")[0] not in on
            ):
                del found[name]
    return found


def plain(name: str) -> str:
    """The name that a weight has where there are no adapters around its layer."""
    return name.replace(f".{BASE}.", ".")


def named_here(model: Any, name: str) -> str:
    """The name that a weight has in ``model``, whether there are adapters around its layer or not."""
    name = plain(name)
    around = (
        path
        for path, module, _ in adapted(model)
        if hasattr(module, BASE) and name.startswith(f"{path}.")
    )
    return next((f"{path}.{BASE}{name.removeprefix(path)}" for path in around), name)


def innermost(path: str, module: Any) -> str:
    """The path of the layer at ``path``, or of the one that adapters are around."""
    return innermost(f"{path}.{BASE}", getattr(module, BASE)) if hasattr(module, BASE) else path


def changeable(module: nn.Module) -> list[str]:
    """The names of a module's parameters, without those that adapters have beside the layer they
    are around.
    """
    names = [name for name, _ in module.named_parameters()]
    for path, inner, _ in adapted(module):
        if hasattr(inner, BASE):
            before = f"{path}." if path else ""
            names = [
                name
                for name in names
                if not name.startswith(before) or name.startswith(before + BASE)
            ]
    return names
