"""An edited model for lmms-eval, which measures what edits cost on MME, POPE, VQAv2 and others.

The package registers the model "liveedit" as an entry point of lmms-eval:

    lmms-eval --model liveedit --model_args pretrained=MODEL,store=edits.db --tasks mme

Requests of lmms-eval become queries, which the edited model answers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from liveedit.editable import EMBEDDED, load
from liveedit.editors.common.examples import chunks
from liveedit.errors import BadInput
from liveedit.evaluate import processes
from liveedit.store.store import Store
from liveedit.types import Query

__all__ = ["EditedModel"]

MAX_NEW_TOKENS = 1024
"""Largest number of tokens of an answer where a task names none."""


class EditedModel(lmms):  # type: ignore[misc]
    """A model with the edits of a store, which must exist.

    Arguments:
        pretrained: The model: "emblem" for the embedded one, a folder, or a Hugging Face id.
        store: The store that keeps the edits; without one the model is unedited.
        editor: The editor, as :func:`liveedit.load` takes it.
        dtype: Type of the weights, "bfloat16" and the like.
        prompt_format: Format of prompts.
        device_map: Placement of the layers; by default the device.
        device: The device; by default that of the process.
        batch_size: Requests that are answered together.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = EMBEDDED,
        store: str | None = None,
        editor: str | None = None,
        dtype: str | None = None,
        prompt_format: str | None = None,
        device_map: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,  # noqa: ARG002  # lmms-eval gives it to every model
    ) -> None:
        super().__init__()
        self.device = torch.device(device or processes().device)
        options: dict[str, Any] = {"prompt_format": prompt_format, "dtype": _dtype(dtype)}
        if device_map or self.device.type != "cpu":
            options["device_map"] = device_map or str(self.device)
        kept = None if store is None else Store(store, create=False)
        self.edited = load(pretrained, editor, kept, **_given(options))
        self.batch_size = _size(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The greedy answers, each up to the first of its task's ``until``."""
        alike = defaultdict[int, list[int]](list)
        for number, request in enumerate(requests):
            alike[_max_new_tokens(request.args[1])].append(number)
        found = [""] * len(requests)
        with self._progress(len(requests)) as bar:
            for limit, numbers in alike.items():
                for some in chunks(numbers, self.batch_size):
                    answers = self._answers([requests[number] for number in some], limit)
                    for number, answer in zip(some, answers, strict=True):
                        found[number] = answer
                    bar.update(len(some))
        return found

    def _answers(self, asked: Sequence[Instance], max_new_tokens: int) -> list[str]:
        """The answers to one batch of requests."""
        queries = [self._query(request.args[0], "", *request.args[2:]) for request in asked]
        answers = self.edited.generate(queries, max_new_tokens=max_new_tokens)
        found = []
        for request, answer in zip(asked, answers, strict=True):
            found.append(_until(answer, request.args[1].get("until")))
            self.cache_hook.add_partial("generate_until", request.args[:2], found[-1])
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each target the mean loss of its tokens, which lmms-eval compares, and whether they
        are the greedy answer.
        """
        found: list[tuple[float, bool]] = []
        with self._progress(len(requests)) as bar:
            for some in chunks(requests, self.batch_size):
                found += self._losses([self._choice(request) for request in some])
                bar.update(len(some))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds. Raises :class:`BadInput`."""
        raise BadInput(
            f"{requests[0].task_name} asks in several rounds, which liveedit does not answer here: "
            "leave the task out, or run it through `liveedit serve`"
        )

    def _progress(self, total: int) -> Any:
        """A progress bar, in the first process only."""
        return tqdm(total=total, disable=self.rank != 0, desc="Model Responding")

    def _choice(self, request: Instance) -> Query:
        """The query of a request that gives an answer."""
        context, target, doc_to_visual, id, task, split = request.args
        if callable(target):
            target = target(self.task_dict[task][split][id])
        return self._query(context, str(target).strip(), doc_to_visual, id, task, split)

    def _query(
        self, prompt: str, target: str, doc_to_visual: Any, id: int, task: str, split: str
    ) -> Query:
        """A request as a query. Raises :class:`BadInput` for anything but images."""
        shown = list(doc_to_visual(self.task_dict[task][split][id]) or ())
        if other := next((one for one in shown if not isinstance(one, Image.Image)), None):
            raise BadInput(
                f"{task} shows {type(other).__name__} objects, liveedit answers about images only: "
                "leave the task out"
            )
        placeholder = getattr(self.edited.vlm.processor, "image_token", None)
        if placeholder:
            prompt = prompt.replace(placeholder, "")
        return Query(prompt.strip(), target, shown or None)

    @torch.no_grad()
    def _losses(self, queries: Sequence[Query]) -> list[tuple[float, bool]]:
        """The mean loss of each target, and whether it is the greedy answer."""
        vlm = self.edited.vlm
        with vlm.patched(self.edited.patch):
            batch = vlm.encode(queries)
            logits = vlm.logits(batch)
        predicted = logits[batch.answer_positions()].float()
        losses = functional.cross_entropy(predicted, batch.answer_tokens(), reduction="none")
        greedy = predicted.argmax(-1) == batch.answer_tokens()
        rows = batch.answer_rows()
        own = [rows == number for number in range(len(queries))]
        return [(losses[row].mean().item(), bool(greedy[row].all())) for row in own]


def _dtype(name: str | None) -> torch.dtype | None:
    """The type of this name. Raises :class:`BadInput` for an unknown one."""
    found = None if name is None else getattr(torch, name, None)
    if name is not None and not isinstance(found, torch.dtype):
        raise BadInput(f"there is no dtype '{name}': choose bfloat16, float16 or float32")
    return found


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given."""
    return {name: value for name, value in options.items() if value is not None}


def _size(batch_size: int | str) -> int:
    """The size of a batch. Raises :class:`BadInput` for anything but a number, such as "auto"."""
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise BadInput(f"--batch_size takes a number of at least 1, not '{batch_size}'")
    return int(batch_size)


def _max_new_tokens(options: Mapping[str, Any]) -> int:
    """The largest number of tokens. Raises :class:`BadInput` for answers that are not greedy."""
    sampled = options.get("do_sample") and options.get("temperature") != 0
    if sampled or (options.get("temperature") or 0) > 0 or (options.get("num_beams") or 1) > 1:
        raise BadInput(
            "liveedit answers greedily: add --gen_kwargs temperature=0,do_sample=False,num_beams=1"
        )
    return int(options.get("max_new_tokens") or MAX_NEW_TOKENS)


def _until(answer: str, ends: str | Sequence[str] | None) -> str:
    """The answer up to the first of some texts."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        answer = answer.partition(end)[0] if end else answer
    return answer.strip()
