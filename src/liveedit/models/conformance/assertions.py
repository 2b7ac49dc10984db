"""Assertions of the checks: they raise :class:`Broken` with a description of the fault."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from liveedit.models.batch import Batch, Spans
from liveedit.models.runner import ModelRunner

__all__ = [
    "Broken",
    "NotApplicable",
    "close",
    "distances",
    "expect",
    "real",
    "refused",
    "rounding",
    "rows_close",
    "running",
    "unchanged",
]


class Broken(AssertionError):
    """A check does not hold."""


class NotApplicable(SkipTest):
    """A check does not apply: the model refuses the feature, as it may. Pytest skips it."""


def expect(holds: bool, otherwise: str) -> None:
    """Raise :class:`Broken`, with ``otherwise`` for its message, unless ``holds``."""
    if not holds:
        raise Broken(otherwise)


def close(one: Tensor, other: Tensor, what: str, loose: float = 1.0) -> None:
    """Raise :class:`Broken` unless both are equal up to rounding in their dtype.

    ``loose`` multiplies the tolerance. Logits at the dtype's minimum in both are left out.
    """
    expect(
        one.shape == other.shape,
        f"{what}: shape {tuple(one.shape)} in place of {tuple(other.shape)}",
    )
    excluded = (one == other) & (other == torch.finfo(other.dtype).min)
    one = one.masked_fill(excluded, 0)
    other = other.masked_fill(excluded, 0)
    tolerance = loose * (1e-4 if one.dtype == torch.float32 else 5e-2)
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    difference = one.detach().float() - other.detach().float()
    apart = float(difference.abs().max()) if one.numel() else 0.0
    expect(apart <= tolerance * scale, f"{what}: {apart:.2g} apart")


def rows_close(
    logits: Sequence[Tensor], others: Sequence[Tensor], what: str, loose: float = 1.0
) -> None:
    """Raise :class:`Broken` unless each row is :func:`close` to its counterpart."""
    for number, (one, other) in enumerate(zip(logits, others, strict=True)):
        close(one, other, f"{what}, row {number}", loose)


def real(values: Tensor, spans: Sequence[Spans]) -> list[Tensor]:
    """The tokens of each row that are not padding."""
    return [row[span.start : span.stop] for row, span in zip(values, spans, strict=True)]


def refused(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    """Raise :class:`Broken` unless the call raises an error of this kind, with these words."""
    try:
        call()
    except kind as error:
        expect(words in str(error), f"the error reads '{error}', without '{words}'")
    else:
        raise Broken(f"nothing raised {kind.__name__}: {words}")


def rounding(vlm: ModelRunner) -> float:
    """The share by which logits computed in two ways may differ: small in single precision.

    In half precision, and with quantised activations, a token may be routed to another expert; a
    lost cache, mask or position changes the logits more than these do.
    """
    exact = all(weights.dtype == torch.float32 for weights in vlm.model.parameters())
    return 0.01 if exact and vlm.quantised is None else 0.5


def distances(one: Tensor, other: Tensor) -> Tensor:
    """The distances (B, T) between two sets of logits (B, T, V), token by token."""
    apart: Tensor = (one.float() - other.float()).norm(dim=-1)
    return apart


@contextmanager
def running(model: nn.Module) -> Iterator[set[str]]:
    """Collect the names of all modules that run within this context."""
    names: set[str] = set()
    with ExitStack() as undo:
        for name, module in model.named_modules():
            hook = module.register_forward_pre_hook(lambda *_, name=name: names.add(name))
            undo.callback(hook.remove)
        yield names


@contextmanager
def unchanged(vlm: ModelRunner, batch: Batch) -> Iterator[None]:
    """Raise :class:`Broken` if anything about the model differs afterwards."""
    logits = vlm.logits(batch)
    hooked = hooks(vlm.model)
    before = {
        name: (value, value.detach().clone())
        for name, value in vlm.model.named_parameters(remove_duplicate=False)
    }
    yield
    expect(hooks(vlm.model) == hooked, "a hook is left on the model")
    after = dict(vlm.model.named_parameters(remove_duplicate=False))
    expect(list(after) == list(before), "the model has other parameters")
    for name, (parameter, value) in before.items():
        same = after[name] is parameter and torch.equal(parameter, value)
        expect(same, f"the parameter {name} is not as it was")
    expect(torch.equal(vlm.logits(batch), logits), "the logits are not as they were")
    expect(vlm.patches == [] and not vlm.attachment.users, "a patch is left")


def hooks(model: nn.Module) -> dict[str, Any]:
    """Every module's hooks, and its own ``forward`` if it has one."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = [list(getattr(module, kind)) for kind in kinds]
        found[f"{name}.forward"] = vars(module).get("forward")
    return found
