"""Opens the edits of a worker's model; keeps all workers of the model at one state of the store."""

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import distributed
from vllm.distributed.parallel_state import get_tp_group

from liveedit.editable import open_pool
from liveedit.editors import editor_class
from liveedit.errors import LiveEditError
from liveedit.integrations.vllm.edits import Edits, check_patch
from liveedit.integrations.vllm.served import serve
from liveedit.integrations.vllm.variables import STORE
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.serve.hits import Hits
from liveedit.store.durable import DurablePool, State
from liveedit.store.store import Hit, Store

__all__ = ["Opened", "open_edits"]

LOG = logging.getLogger("vllm.liveedit")


class Opened(NamedTuple):
    """The edits of a worker's model, and what ends them: it writes the hits that wait.

    What ends them runs once, at the latest when the process ends.
    """

    edits: Edits
    close: Callable[[], object]


@torch.inference_mode(False)
def open_edits(runner: Any, vllm_config: Any) -> Opened:
    """The edits of a runner's model, with the functions of the store's patch at their sites.

    Raises what opening the store raises, and :class:`UnsupportedModel` for edits of a method that
    acts elsewhere than at a layer.
    """
    store = Store(os.environ[STORE])
    reader = Reader(store, runner, vllm_config)
    first = get_tp_group().rank_in_group == 0
    hits = Hits(store) if first else None
    edits = Edits(runner, reader.vlm, reader, hits.add if hits else _drop)
    reader.read()
    edits.hook_known()
    return Opened(edits, finalize(edits, _end, store, hits))


def _end(store: Store, hits: Hits | None) -> None:
    """Write the hits that wait, and close the store."""
    if hits is not None:
        hits.close()
    store.close()


class Reader:
    """Reads the store's state; all workers of a model get the same one."""

    def __init__(self, store: Store, runner: Any, vllm_config: Any) -> None:
        self.store = store
        made = store.remembered()
        known = made.opens_with if made else {}
        path = vllm_config.model_config.model
        form: Any = known.get("prompt_format")
        self.vlm = serve(VLM.outline(path, runner.dtype, form), runner, path)
        self._pool: DurablePool | None = None
        self._last: State | None = None
        """The state that was read last."""

    def __call__(self) -> State | None:
        """The state of now; ``None`` while the store holds no edits.

        Where it cannot be read, the last one: requests are answered all the same.
        """
        state = self._newest()
        while not _agreed(0 if state is None else state.version):
            state = self._newest()
        return state

    def _newest(self) -> State | None:
        """The state that this worker reads or, where it cannot, has read last."""
        try:
            return self.read()
        except LiveEditError as error:
            LOG.warning("the edits stay as they were: %s", error)
            return self._last

    @torch.inference_mode(False)
    def read(self) -> State | None:
        """The state that this worker reads. Raises as :func:`open_edits`."""
        if self._pool is None and (maker := self.store.newest_maker()):
            check_patch(getattr(editor_class(maker.editor), "patch_class", Patch))
            self._pool = open_pool(self.vlm, self.store)
        if self._pool is not None:
            self._last = self._pool.state
        return self._last


def _agreed(version: int) -> bool:
    """Whether all workers of the model have read this version."""
    group = get_tp_group()
    if group.world_size == 1:
        return True
    versions: list[Any] = [None] * group.world_size
    distributed.all_gather_object(versions, version, group=group.cpu_group)
    return len(set(versions)) == 1


def _drop(hits: list[Hit]) -> None:
    """Keep no hits: another worker does."""
