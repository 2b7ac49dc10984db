"""Detours: another ``forward`` of a module, and hooks, for the calls of one thread alone.

A model is shared by threads, and a call runs in the thread that makes it. So whoever steps into a
call does so in his own thread, and leaves the calls of all others as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock, get_ident
from typing import Any

from torch import nn

__all__ = ["detour", "mine"]

Function = Callable[..., Any]

_LOCK = Lock()


class _Junction:
    """In place of a module's ``forward``: the way of the calling thread, if it has one, else the
    module's own.
    """

    def __init__(self, own: Function, before: Function | None) -> None:
        self.own, self.before = own, before
        self.ways: dict[int, list[Function]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ways = self.ways.get(get_ident())
        return (ways[-1] if ways else self.own)(*args, **kwargs)


@contextmanager
def detour(module: nn.Module, way: Callable[[Function], Function]) -> Iterator[None]:
    """Within it the calling thread runs, in place of the module's ``forward``, what ``way`` makes
    of that.
    """
    own, me = vars(module), get_ident()
    with _LOCK:
        junction = own.get("forward")
        if not isinstance(junction, _Junction):
            junction = own["forward"] = _Junction(module.forward, own.get("forward"))
        ways = junction.ways.setdefault(me, [])
        ways.append(way(ways[-1] if ways else junction.own))
    try:
        yield
    finally:
        with _LOCK:
            ways.pop()
            if not ways:
                del junction.ways[me]
            if not junction.ways and junction.before is None:
                del own["forward"]
            elif not junction.ways:  # accelerate's, which has to come back
                own["forward"] = junction.before


def mine(hook: Function) -> Function:
    """A hook that acts in the calls of the thread that makes it, and in no other's."""
    me = get_ident()

    @wraps(hook)
    def acting(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if get_ident() == me else None

    return acting
