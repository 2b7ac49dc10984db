"""Plug-in for vLLM: `vllm serve MODEL` answers with the edits of a store.

    LIVEEDIT_STORE=edits.db VLLM_PLUGINS=liveedit vllm serve MODEL

vLLM loads plug-ins in each of its processes and calls :func:`register`, which does nothing without
LIVEEDIT_STORE. Who does what:

    config.py     before the engine starts: chooses the workers below, and what the edits need
    worker.py     a worker whose model has edits: tells them which requests a step runs
    requests.py   the requests of a step, and which tokens are whose
    edits.py      reads the store, and gives each new request the patch of that moment
    sites.py      where the patches act within vLLM's modules
    served.py     the model as editors see it
    layers.py     vLLM's lower layers, run on whole texts apart from its steps
    reports.py    what fired on the last requests
    llava.py      LLaVA with the vision tower of the embedded model
    endpoint.py   vLLM's API server: the routes of edits
    asking.py     what stands before its routes of questions

Patches are those of the other engine, with the same functions at the same sites. So an edit acts
alike in both. vLLM keeps the tokens of all requests in one axis: a step has N tokens, D wide.
"""

import os

from liveedit.integrations.vllm.variables import STORE

__all__ = ["register"]


def register() -> None:
    """Entry point of vLLM's general plug-ins; called in each of its processes."""
    if not os.environ.get(STORE):
        return
    from liveedit.integrations.vllm.config import prepare

    prepare()
