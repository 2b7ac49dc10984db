"""Replace a module's ``forward``, or hook it, for the calls of one thread only.

Threads share a model, and a call runs in the thread that makes it. So a thread can change its own
calls without changing those of other threads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock, get_ident
from typing import Any

from torch import nn

__all__ = ["in_this_thread", "replaced_forward"]

Function = Callable[..., Any]

_LOCK = Lock()


class _Dispatcher:
    """Stands in for a module's ``forward``: runs the calling thread's replacement, if it has one.

    ``before`` is the ``forward`` that the module instance had of its own, if any.
    """

    def __init__(self, own: Function, before: Function | None) -> None:
        self.own = own
        self.before = before
        self.replacements: dict[int, list[Function]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stack = self.replacements.get(get_ident())
        forward = stack[-1] if stack else self.own
        return forward(*args, **kwargs)


@contextmanager
def replaced_forward(module: nn.Module, replace: Callable[[Function], Function]) -> Iterator[None]:
    """Let this thread run ``replace(forward)`` instead of the module's ``forward``."""
    attributes = vars(module)
    thread = get_ident()
    with _LOCK:
        dispatcher = attributes.get("forward")
        if not isinstance(dispatcher, _Dispatcher):
            dispatcher = _Dispatcher(module.forward, attributes.get("forward"))
            attributes["forward"] = dispatcher
        stack = dispatcher.replacements.setdefault(thread, [])
        stack.append(replace(stack[-1] if stack else dispatcher.own))
    try:
        yield
    finally:
        with _LOCK:
            stack.pop()
            if not stack:
                del dispatcher.replacements[thread]
            if not dispatcher.replacements and dispatcher.before is None:
                del attributes["forward"]
            elif not dispatcher.replacements:  # restore the one that accelerate had set
                attributes["forward"] = dispatcher.before


def in_this_thread(hook: Function) -> Function:
    """The hook, limited to calls of the thread that is running now."""
    thread = get_ident()

    @wraps(hook)
    def limited(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if get_ident() == thread else None

    return limited
