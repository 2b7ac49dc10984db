"""Sites: the outputs and inputs of vLLM's decoder modules, where the functions of patches act.

vLLM's layers take and return their output in two parts whose sum is the stream, (hidden, residual);
other modules take and return tensors. A module is made to call :data:`OP` on them, which changes
them in place. It is an operator of its own so that a compiled model calls it as it is, between the
parts of its graph (:mod:`liveedit.integrations.vllm.config`).
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from vllm.utils.torch_utils import direct_register_custom_op

from liveedit.models.patch import INPUT

__all__ = ["OP", "Acts", "hook"]

OP = "vllm::liveedit_act"
"""The operator."""
Acts = Callable[[str, Tensor, Tensor | None], None]
"""Changes the states at a site in place: the sum of two tensors (N, D), the second of which may be
missing.
"""
HIDDEN = "hidden_states"
RESIDUAL = "residual"
_ACTING: "WeakValueDictionary[str, Any]" = WeakValueDictionary()
"""The objects whose method ``act`` is called, by name; several engines may be in one process."""


def act(hidden: Tensor, residual: Tensor | None, site: str, owner: str) -> None:
    """The operator: let the edits of an engine act at a site."""
    found = _ACTING.get(owner)
    if found is not None:
        found.act(site, hidden, residual)


def _act_shapes(hidden: Tensor, residual: Tensor | None, site: str, owner: str) -> None:
    """The operator for shapes alone."""


if not hasattr(torch.ops.vllm, "liveedit_act"):
    direct_register_custom_op(
        op_name="liveedit_act",
        op_func=act,
        mutates_args=["hidden", "residual"],
        fake_impl=_act_shapes,
    )


def hook(decoder: nn.Module, site: str, owner: Any) -> None:
    """Let ``owner.act`` act at a site of the decoder from now on.

    Raises ``AttributeError`` where the decoder has no such module.
    """
    name = f"{id(owner)}"
    _ACTING[name] = owner
    path = site.removesuffix(INPUT)
    module: Any = decoder.get_submodule(path)
    wrap = _with_input if path != site else _with_output
    module.forward = partial(wrap, module.forward, site, name, _places(module.forward))


def _places(forward: Any) -> tuple[int, int | None]:
    """The places of the states among a module's arguments: the stream's two parts, or its input."""
    function = forward.args[0] if isinstance(forward, partial) else forward
    names = list(signature(function).parameters)
    if HIDDEN not in names:
        return 0, None
    return names.index(HIDDEN), names.index(RESIDUAL) if RESIDUAL in names else None


def _with_output(
    forward: Any, site: str, owner: str, _places: object, *args: Any, **kwargs: Any
) -> Any:
    """Call a module, and let edits act on its output."""
    output = forward(*args, **kwargs)
    if isinstance(output, tuple):
        hidden, residual = output[:2]
        torch.ops.vllm.liveedit_act(hidden, residual, site, owner)
    else:
        torch.ops.vllm.liveedit_act(output, None, site, owner)
    return output


def _with_input(
    forward: Any,
    site: str,
    owner: str,
    places: tuple[int, int | None],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Let edits act on a module's input, and call it."""
    hidden, residual = places
    states = kwargs[HIDDEN] if HIDDEN in kwargs else args[hidden]
    rest = None
    if residual is not None:
        rest = kwargs[RESIDUAL] if RESIDUAL in kwargs else args[residual]
    torch.ops.vllm.liveedit_act(states, rest, site, owner)
    return forward(*args, **kwargs)
