"""The model as editors see it: its facts are those of the checkpoint, its layers are vLLM's.

An editor reads sizes, tokens and the fingerprint of a :class:`VLM`. That of a worker has no
weights; the fingerprint is found once by reading those on the disk. Some states are read before the
prompts are answered, as those of each question's text alone (`direct`) and of a chat's last
question alone. vLLM's layers compute them here, all tokens of some prompts at once, without a
cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from vllm.multimodal.utils import group_and_batch_mm_kwargs

from liveedit.integrations.vllm.layers import Embedded, run
from liveedit.integrations.vllm.requests import Request
from liveedit.models.batch import Batch, HiddenBatch, find_spans
from liveedit.models.remembered import remembered
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["Served", "serve"]


@dataclass(slots=True)
class Prompts(Batch):
    """Prompts of requests.

    Arguments:
        images: The images of each, as vLLM describes them.
    """

    images: Sequence[Sequence[Any]] = ()


class Served:
    """A :class:`VLM` whose layers are those of a worker."""

    runner: Any
    """vLLM's model runner."""
    source: str
    """The checkpoint."""
    image_token_id: int
    pad_token_id: int

    @property
    def device(self) -> torch.device:
        """The device of the worker."""
        device: torch.device = self.runner.device
        return device

    @property
    def vllm_decoder(self) -> Any:
        """The text decoder of the worker."""
        return self.runner.model.get_language_model().model

    def compute_fingerprint(self, *given: Any) -> str:
        """See :meth:`ModelRunner.compute_fingerprint`."""
        compute = partial(super().compute_fingerprint, *given)  # type: ignore[misc]
        return remembered(self.source, f"{self.runner.dtype} {given}", compute)

    # Prompts

    def prompts(self, requests: Sequence[Request]) -> Batch:
        """The prompts of requests as one batch; if these are chats, with the questions alone."""
        batch = self._batch([(request.prompt, request.images) for request in requests])
        if all(request.question for request in requests):
            batch.alone = self._batch([self._alone(request) for request in requests])
        return batch

    def _batch(self, rows: Sequence[tuple[Sequence[int], Sequence[Any]]]) -> Prompts:
        """Prompts, given as token ids and images; each is about the last of its images."""
        batch: Batch = self.encode_tokens([tokens for tokens, _ in rows])  # type: ignore[attr-defined]
        mask = batch.inputs["attention_mask"]
        image = self.image_tokens(batch.inputs["input_ids"]) & mask.bool()  # type: ignore[attr-defined]
        for marks, (_, images) in zip(image, rows, strict=True):
            if images:
                marks[: images[-1].mm_position.offset] = False
        spans = find_spans(image, mask)
        return Prompts(batch.inputs, batch.labels, spans, images=[each for _, each in rows])

    def _alone(self, request: Request) -> tuple[list[int], list[Any]]:
        """The last question of a chat as :attr:`Query.alone` has it: its token ids and images."""
        question = request.question
        assert question is not None
        shown = request.images[-(question.images or 1) :]
        query = Query(question.text, image=["shown"] * len(shown))
        [written] = self.token_ids([self.render(query)])  # type: ignore[attr-defined]
        images = iter(shown)
        tokens: list[int] = []
        placed = []
        for token in written:
            image = next(images, None) if token == self.image_token_id else None
            if image is None:
                tokens.append(token)
                continue
            place = image.mm_position
            placed.append(replace(image, mm_position=replace(place, offset=len(tokens))))
            tokens += request.prompt[place.offset : place.offset + place.length]
        return tokens, placed

    # States

    def hidden(self, batch: Prompts, layer: int) -> HiddenBatch:
        """See :meth:`ModelRunner.hidden`. Patches see the layers' states, and change none."""
        mask = batch.inputs["attention_mask"]
        lengths = mask.sum(1).tolist()
        rows = zip(batch.inputs["input_ids"], lengths, batch.images, strict=True)
        given = Embedded.cat([self._embedded(ids[:count], images) for ids, count, images in rows])
        functions = [patch.bind(batch) for patch in self.patches]  # type: ignore[attr-defined]

        def sees(site: str, states: Tensor) -> None:
            for function in filter(None, (each.get(site) for each in functions)):
                function(_rows(states, lengths))

        states = run(self.runner, self.vllm_decoder, given, lengths, layer, sees)
        return HiddenBatch(_rows(states, lengths), mask, batch.labels, batch.spans)

    def text_states(self, texts: Sequence[Sequence[int]], layer: int) -> Tensor:
        """See :meth:`ModelRunner.text_states`."""
        lengths = [len(text) for text in texts]
        ids = torch.tensor(list(chain.from_iterable(texts)), device=self.device)
        positions = torch.cat([self._counted(length) for length in lengths], -1)
        states = self.vllm_decoder.embed_input_ids(ids)
        given = Embedded(states, positions, states.new_empty(0, *states.shape))
        output = run(self.runner, self.vllm_decoder, given, lengths, layer, _sees_nothing)
        return output[[stop - 1 for stop in accumulate(lengths)]]

    @torch.inference_mode()
    def _embedded(self, ids: Tensor, images: Sequence[Any]) -> Embedded:
        """One prompt with its images."""
        model = self.runner.model
        if not images:
            states = model.embed_input_ids(ids)
            return Embedded(states, self._counted(len(ids)), self._added(states, images))
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for image in images:
            place = image.mm_position
            own = True if place.is_embed is None else place.is_embed.to(mask.device)
            mask[place.offset : place.offset + place.length] = own
        states = model.embed_input_ids(
            ids,
            multimodal_embeddings=[self._seen(image) for image in images],
            is_multimodal=mask,
        )
        positions = self._counted(len(ids))
        if self.runner.uses_mrope:
            found, _ = model.get_mrope_input_positions(ids.tolist(), list(images))
            positions = found.to(self.device)
        return Embedded(states, positions, self._added(states, images))

    def _seen(self, image: Any) -> Tensor:
        """The features (n, D) of an image, as vLLM has kept them or sees them now."""
        kept: Tensor | None = self.runner.encoder_cache.get(image.identifier)
        if kept is not None:
            return kept
        [(_, _, inputs)] = group_and_batch_mm_kwargs(
            [(image.modality, image.data)], device=self.device
        )
        features: Tensor = self.runner.model.embed_multimodal(**inputs)[0]
        return features

    def _counted(self, length: int) -> Tensor:
        """The positions of a text without images."""
        positions = torch.arange(length, device=self.device)
        return positions.expand(3, -1) if self.runner.uses_mrope else positions

    def _added(self, states: Tensor, images: Sequence[Any]) -> Tensor:
        """:attr:`Embedded.added` of the prompt that was embedded last."""
        model = self.runner.model
        levels = model.deepstack_num_level if getattr(model, "use_deepstack", False) else 0
        added = states.new_zeros(levels, *states.shape)
        if levels and images:
            kept = model._get_deepstack_input_embeds(len(states))
            added = torch.stack(list(kept.tensors.values()))
            model._clear_deepstack_input_embeds(len(states))
        return added


def _rows(states: Tensor, lengths: Sequence[int]) -> Tensor:
    """States (N, D) of texts as rows (B, T, D)."""
    texts = torch.split(states, list(lengths))  # type: ignore[no-untyped-call]
    return pad_sequence(list(texts), batch_first=True)


def _sees_nothing(site: str, states: Tensor) -> None:
    """Nobody looks at the states."""


def serve(vlm: VLM, runner: Any, source: str) -> VLM:
    """Turn a VLM without weights, of a checkpoint, into the one of a worker's model."""
    facts = {"runner": runner, "source": source}
    vlm.__class__ = type(f"Served{type(vlm).__name__}", (Served, type(vlm)), facts)
    return vlm
