"""Attachment: applies patches to a model, each only in the contexts that entered it.

Which patches act depends on the context: the thread, or the asyncio task, that entered
:meth:`Attachment.patched`. A raw call of the Hugging Face model may come from a thread that entered
nothing, such as the one that feeds a streamer. It gets the patches of another context if only one
context has any.

The values that a patch computes for a prompt are stored with the answer
(:mod:`liveedit.models.answers`), neither in the model nor in the patch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock, RLock, local
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models import streams
from liveedit.models.answers import Answer, CachedAnswers
from liveedit.models.batch import IGNORED, Batch, Spans, find_spans
from liveedit.models.calls import Call, arguments, cache_in
from liveedit.models.patch import (
    INPUT,
    Patch,
    SiteFn,
    act,
    act_before,
    output_embedding,
    overrides,
    site_layer,
)
from liveedit.models.quantisation import check_changeable
from liveedit.models.raw_calls import answer_lengths, unpadded
from liveedit.models.wrappers import uncompiled

__all__ = ["Attachment", "Host"]


class Host(Protocol):
    """Interface that a model needs for attaching patches; ``ModelRunner`` has it."""

    model: Any

    @property
    def decoder(self) -> Any:
        """The text decoder within ``model``."""

    @property
    def num_layers(self) -> int:
        """The number of layers of the text decoder."""

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the unedited weights."""

    def image_tokens(self, input_ids: Tensor) -> Tensor:
        """The image tokens among the ids (B, T), as a boolean mask (B, T)."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A patch that is on the model.

    ``rest`` is what the context had before its first patch: ``None`` if nothing was entered, and
    ``()`` within ``unpatched``. The context falls back to it once all of its patches are off.
    """

    patch: Patch
    rest: "tuple[Scope, ...] | None" = None

    @property
    def acts(self) -> bool:
        """Whether the patch acts in calls of the model, beyond changing weights."""
        return any(
            overrides(self.patch, method) for method in ("rewrite", "prefix", "bind", "merge")
        )


@dataclass(frozen=True, slots=True)
class Context:
    """State of one thread or asyncio task: its patches, and the current call.

    ``scopes`` are its patches, the innermost last; ``None`` where it has entered none and raw calls
    get the patches of others. ``announced`` is the batch of a ``ModelRunner`` method, ``skipped``
    the last layer that does not run, ``prompt`` the prompt's length in a raw ``generate``.
    """

    scopes: tuple[Scope, ...] | None = None
    announced: Batch | None = None
    skipped: int = -1
    prompt: int | None = None


_MAKING = Lock()
_CONTEXTS: ContextVar[Mapping[int, Context]] = ContextVar("liveedit", default={})  # noqa: B039  # never changed, only replaced


class ContextParameters(dict[str, Any]):
    """A module's parameters by name, some of which have other values in some contexts."""

    def __init__(self, attachment: "Attachment", own: dict[str, Any]) -> None:
        super().__init__(own)
        self.attachment = attachment
        self.own = own
        self.others: dict[Scope, dict[str, Tensor]] = {}

    def here(self, name: str, value: Any) -> Any:
        """The value of a parameter in this context, ``value`` unless a patch sets it."""
        for scope in reversed(self.attachment.here.scopes or ()):
            if name in self.others.get(scope, ()):
                return self.others[scope][name]
        return value

    def __getitem__(self, name: str) -> Any:
        return self.here(name, super().__getitem__(name))

    def items(self) -> Any:
        """Names and values in this context."""
        return [(name, self.here(name, value)) for name, value in super().items()]

    def values(self) -> Any:
        """The values in this context."""
        return [value for _, value in self.items()]


class Attachment:
    """The patches on one Hugging Face model. Without any, the model is left as it is."""

    known: ClassVar[WeakValueDictionary[int, "Attachment"]] = WeakValueDictionary()
    """The attachment of each model, by the model's ``id``; an attachment keeps its model alive."""

    @classmethod
    def of(cls, vlm: Host) -> "Attachment":
        """The attachment of ``vlm.model``, shared by all VLMs of that model."""
        with _MAKING:
            found = cls.known.get(id(vlm.model))
            if found is None:
                found = cls.known[id(vlm.model)] = cls(vlm)
            return found

    def __init__(self, vlm: Host) -> None:
        self.vlm = vlm
        self.lock = RLock()
        self.entered: dict[Scope, tuple[Scope, ...]] = {}
        """All patches that are on, each with the scopes of its context up to itself."""
        self.hooks = ExitStack()
        self.sites: dict[str, Any] = {}
        self.users = 0
        """The number of patches that are on; while it is above 0, the hooks are on."""
        self.call = local()
        """The current call of each thread; see :meth:`on_model_call`, :meth:`on_decoder_call`."""

    # Contexts

    @property
    def here(self) -> Context:
        """This context."""
        here = _CONTEXTS.get().get(id(self)) or Context()
        if all(scope in self.entered for scope in here.scopes or ()):
            return here
        return replace(here, scopes=self.still_on(here.scopes))

    @here.setter
    def here(self, here: Context) -> None:
        others = {number: other for number, other in _CONTEXTS.get().items() if number != id(self)}
        _CONTEXTS.set(others if here == Context() else others | {id(self): here})

    def still_on(self, scopes: tuple[Scope, ...] | None) -> tuple[Scope, ...] | None:
        """Those of a context's scopes that are still on.

        Some may have been left in another context, or out of order.
        """
        if not scopes:
            return scopes
        return tuple(scope for scope in scopes if scope in self.entered) or scopes[0].rest

    @contextmanager
    def holding(self, **changes: Any) -> Iterator[None]:
        """Give this thread or task ``changes`` of its state within a block."""
        before = self.here
        depth = self.depth
        self.here = replace(before, **changes)
        try:
            yield
        finally:
            self.unwind(depth)
            self.here = before

    @contextmanager
    def patched(self, patch: Patch) -> Iterator[None]:
        """Put ``patch`` on the model for this context.

        Leaving, also by an exception, takes this patch off, in whatever order patches are left and
        in whatever context; after the last one the model is as it was.
        """
        before = self.here.scopes
        depth = self.depth
        scope = Scope(patch, before[0].rest if before else before)
        with self.changed_parameters(scope, patch.weights()), self.hooked():
            with self.lock:
                self.entered[scope] = (*(before or ()), scope)
            self.here = replace(self.here, scopes=self.entered[scope])
            try:
                yield
            finally:
                self.unwind(depth)
                with self.lock:
                    del self.entered[scope]
                self.here = self.here  # stored again, now without the scope

    @property
    def depth(self) -> int:
        """The number of nested calls of the model that are now running in this thread."""
        return len(self.call.__dict__.get("resets", ()))

    def unwind(self, depth: int) -> None:
        """Leave all calls beyond ``depth``: they were interrupted, and torch then runs no hooks."""
        if self.depth > depth:
            with suppress(ValueError):  # begun in another context
                _CONTEXTS.reset(self.call.resets[depth])
            resets = self.call.resets[:depth]
            self.call.__dict__.clear()
            self.call.resets = resets

    @property
    def open(self) -> dict[Scope, tuple[Scope, ...]]:
        """The scopes that raw calls from other threads may use, for each context by its last scope.

        Scopes that were entered within ``unpatched`` are left out: they serve one caller's answer,
        or an edit that is being made.
        """
        below = set[Scope]()
        for scopes in self.entered.values():
            below.update(scopes[:-1])
        last = (
            scope
            for scope in self.entered
            if scope not in below and self.entered[scope][0].rest is None
        )
        return {scope: self.still_on(self.entered[scope]) or () for scope in last}

    def asked_for(self) -> tuple[Scope, ...]:
        """The patches that act in a call that begins in this context.

        Raises :class:`BadInput` for a raw call from a thread without patches while several others
        have some.
        """
        here = self.here
        if here.scopes is not None or here.announced is not None:
            return here.scopes or ()
        with self.lock:
            stacks = list(self.open.values())
        if len(stacks) > 1:
            raise BadInput(
                "several threads have patched this model: "
                "enter `patched` in the thread that calls it"
            )
        return stacks[0] if stacks else ()

    # Parameters

    @contextmanager
    def changed_parameters(self, scope: Scope, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Context in which parameters have new values where ``scope`` acts, tied ones included.

        The model's own tensors stay where they are, so nothing is copied or rounded. Raises
        :class:`Mismatch` for values that do not fit this model, :class:`UnsupportedModel` for a
        parameter that is quantised or off-loaded.
        """
        changed: list[nn.Module] = []
        if weights:
            _ = self.vlm.fingerprint  # computed now, while the weights are unedited
        try:
            with self.lock:
                for module, leaf, value in self.locate(weights):
                    changed.append(module)
                    self.context_parameters(module).others.setdefault(scope, {})[leaf] = value
            yield
        finally:
            with self.lock:
                for module in changed:
                    if isinstance(parameters := vars(module)["_parameters"], ContextParameters):
                        parameters.others.pop(scope, None)
                        if not parameters.others:
                            vars(module)["_parameters"] = parameters.own

    def context_parameters(self, module: nn.Module) -> ContextParameters:
        """The parameters of a module, as they are or made ready for other values."""
        own = vars(module)["_parameters"]
        if not isinstance(own, ContextParameters):
            own = vars(module)["_parameters"] = ContextParameters(self, own)
        return own

    def locate(self, weights: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, Tensor]]:
        """Each module that holds one of the parameters, the name there, and the new value."""
        if not weights:
            return []
        owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self.vlm.model.modules():
            for leaf, parameter in module._parameters.items():
                owners.setdefault(id(parameter), []).append((module, leaf))
        parameters = dict(self.vlm.model.named_parameters(remove_duplicate=False))
        found = []
        for name, value in weights.items():
            old = parameters.get(name)
            if old is None:
                raise Mismatch(
                    f"the patch sets '{name}', which this model does not have: "
                    "use the patch's own base model"
                )
            check_changeable([(name, old)])
            if old.shape != value.shape:
                shapes = f"{tuple(value.shape)} in the patch and {tuple(old.shape)} here"
                raise Mismatch(f"'{name}' is {shapes}: use the patch's own base model")
            new = value.to(old.device, old.dtype)
            found += [(module, leaf, new) for module, leaf in owners[id(old)]]
        return found

    # Hooks

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Context in which the model has the hooks."""
        with self.lock:
            if not self.users:
                self.hook()
            self.users += 1
        try:
            with uncompiled():
                yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    self.hooks.close()
                    self.sites.clear()

    def hook(self) -> None:
        """Register hooks that run in every call of the model.

        Token ids are taken from the model's call, or else from the input embedding's. A batch
        begins at the text decoder, because embedding and decoder run in every call, also in
        ``generate`` of models that never call their own ``forward``.
        """
        vlm = self.vlm
        undo = self.hooks
        embedding = vlm.model.get_input_embeddings()
        head = output_embedding(vlm.model)
        handles = []
        for model in {vlm.model, vlm.model.base_model}:
            handles += [  # the first runs before the family's own hook
                model.register_forward_pre_hook(self.on_model_call, with_kwargs=True, prepend=True),
                model.register_forward_hook(self.on_model_return, always_call=True),
            ]
        handles += [
            embedding.register_forward_pre_hook(self.on_embedding_call),
            vlm.decoder.register_forward_pre_hook(self.on_decoder_call, with_kwargs=True),
            vlm.decoder.register_forward_hook(self.on_decoder_return, always_call=True),
            head.register_forward_hook(self.on_logits),
        ]
        for handle in handles:
            undo.callback(handle.remove)
        for name, replacement in (
            ("generate", self.patched_generate),
            ("save_pretrained", self.patched_save_pretrained),
        ):
            if name not in vars(vlm.model):
                vars(vlm.model)[name] = partial(replacement, getattr(vlm.model, name))
                undo.callback(vars(vlm.model).pop, name)

    def patched_generate(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in for the model's ``generate``, and keeps the length of a raw call's prompt.

        Raises :class:`BadInput` as :meth:`check_raw` and :meth:`check_assistant`.
        """
        scopes = self.asked_for()
        if not scopes or self.here.announced is not None:
            with self.holding():
                return own(*args, **kwargs)
        given = arguments(own, args, kwargs)
        ids = next(
            (given[name] for name in ("input_ids", "inputs") if given.get(name) is not None), None
        )
        self.check_raw(scopes, ids)
        self.check_assistant(given.get("assistant_model"))
        with self.holding(scopes=scopes, prompt=None if ids is None else ids.shape[1]):
            return own(*args, **kwargs)

    def patched_save_pretrained(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in for the model's ``save_pretrained``.

        Raises :class:`BadInput` under a patch that is not in the weights.
        """
        if any(scope.acts and len(scope.patch) for scope in self.asked_for()):
            raise BadInput(
                "these edits are not in the model's weights: "
                "save them beside it, with EditableVLM.save"
            )
        return own(*args, **kwargs)

    def check_raw(self, scopes: tuple[Scope, ...], ids: Tensor | None) -> None:
        """Raise :class:`BadInput` for a raw call under a patch that acts on text or before it.

        Ids that the VLM has encoded under the patch, which rewrote their question, are accepted.
        """
        for patch in (scope.patch for scope in scopes if len(scope.patch)):
            name = type(patch).__name__
            if overrides(patch, "prefix"):
                raise BadInput(
                    f"{name} puts vectors before the text: use VLM.generate or VLM.logits"
                )
            if overrides(patch, "rewrite") and patch not in getattr(ids, "rewritten_by", ()):
                raise BadInput(
                    f"{name} acts on a question before it is encoded: "
                    "use VLM.generate or VLM.logits, or encode the question within `patched`"
                )

    def check_assistant(self, assistant: Any) -> None:
        """Raise :class:`BadInput` for an assistant model that shares this text decoder."""
        if isinstance(assistant, nn.Module) and self.vlm.decoder in assistant.modules():
            raise BadInput(
                "assistant_model is the patched model itself: "
                "pass another, or a copy of it made outside `patched`"
            )

    # One call

    def on_model_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Before the model: decide which patches act, and keep ids and labels (B, T')."""
        scopes = self.asked_for()
        resets = self.call.__dict__.setdefault("resets", [])
        resets.append(
            _CONTEXTS.set({**_CONTEXTS.get(), id(self): replace(self.here, scopes=scopes)})
        )
        given = arguments(module.forward, args, kwargs) if args else kwargs
        if isinstance(ids := given.get("input_ids"), Tensor):
            self.call.ids = ids
            self.call.ids_given = True
        if isinstance(labels := given.get("labels"), Tensor):
            self.call.labels = labels

    def on_model_return(self, *_: Any) -> None:
        """After the model, also if it raised."""
        if resets := self.call.__dict__.get("resets"):
            _CONTEXTS.reset(resets.pop())

    def on_embedding_call(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the input embedding: keep the ids (B, T') where the model's call gave none."""
        if not getattr(self.call, "ids_given", False) and args and args[0].ndim == 2:
            self.call.ids = args[0]

    def on_decoder_call(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Before the text decoder: begin answers, or continue those after the call's cache.

        In a new batch, a patch's vectors before the text replace the embeddings of filler tokens.
        """
        self.call.answers = []
        self.call.new = False
        patches = [scope.patch for scope in self.here.scopes or () if scope.acts]
        if not patches:
            return None
        call = Call.read(self.vlm.decoder, args, kwargs)
        ids = call.input_ids if call.input_ids is not None else getattr(self.call, "ids", None)
        if call.past:
            self.call.answers = [self.continued_answer(patch, call, ids) for patch in patches]
            return None
        self.check_prompt(call, ids)
        batch = self.batch(call, ids)
        answers = [Answer(patch, batch) for patch in patches]
        with self.call_within_a_call():
            for answer in answers:
                answer.functions = answer.patch.bind(batch)
                self.hook_sites(answer.functions)
        self.call.answers = answers
        self.call.new = True
        self.keep_answers(call.cache)
        if batch.prefix:
            return args, kwargs | {"inputs_embeds": batch.embedded(kwargs["inputs_embeds"])}
        return None

    @contextmanager
    def call_within_a_call(self) -> Iterator[None]:
        """Context in which a patch may call the model while a call of it begins."""
        before = dict(self.call.__dict__)
        try:
            yield
        finally:
            self.call.__dict__.clear()
            self.call.__dict__.update(before)

    def on_decoder_return(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """After the text decoder, also if it raised: keep the answers with the cache it made."""
        if self.call.__dict__.get("new") and output is not None:
            self.keep_answers(cache_in(output))
        self.call.ids = None
        self.call.labels = None
        self.call.ids_given = False
        self.call.new = False
        answers = self.call.__dict__.get("answers", ())
        if not any(overrides(answer.patch, "merge") for answer in answers):
            self.call.answers = []

    def keep_answers(self, cache: Any) -> None:
        """Store the current answers with ``cache``, if there is one."""
        if cache is not None:
            CachedAnswers.of(cache).update({answer.patch: answer for answer in self.call.answers})

    def continued_answer(self, patch: Patch, call: Call, ids: Tensor | None) -> Answer:
        """The answer of ``patch`` that ``call`` continues.

        Raises :class:`BadInput` where the cache was filled without the patch, where the call's
        tokens may belong to the answer or to another prompt, and as :meth:`Answer.goes_on`.
        """
        answer = CachedAnswers.of(call.cache).get(patch)
        if answer is None:
            raise BadInput(
                "this cache was filled without the patch: begin the text within `patched`"
            )
        here = self.here
        inside = here.announced is not None or (
            here.prompt is not None and call.past >= here.prompt
        )
        if call.length > 1 and not inside:
            raise BadInput(
                f"{call.length} tokens after a cache may be an answer or another prompt: "
                "give the whole text again, without a cache, or use generate"
            )
        if call.rows != len(answer.batch):
            raise BadInput(
                f"{call.rows} rows continue {len(answer.batch)} rows: begin all of them together"
            )
        answer.goes_on(call, ids)
        return answer

    def check_prompt(self, call: Call, ids: Tensor | None) -> None:
        """Raise :class:`BadInput` for part of a prompt, and as :meth:`check_raw`."""
        here = self.here
        if here.announced is None and here.prompt is None:
            self.check_raw(here.scopes or (), ids)
        whole = here.prompt if here.announced is None else here.announced.labels.shape[1]
        if whole is not None and call.length < whole:
            raise BadInput(
                f"{call.length} of the {whole} tokens of a prompt: give all of them in one call, "
                "without prefill_chunk_size, or pass the cache of those before"
            )

    def batch(self, call: Call, ids: Tensor | None) -> Batch:
        """The batch of a call that begins.

        This is the announced batch, followed by the tokens generated so far where there is no
        cache, or a new one for a raw call. Raises :class:`BadInput` if a raw call has no ids.
        """
        announced = self.here.announced
        if announced is not None:
            length = announced.labels.shape[1]
            if call.length == length or ids is None:
                return announced
            return announced.extended(ids[:, length:])
        embedded = call.embedded
        if ids is not None and embedded is not None and len(embedded) > len(ids):
            beams = len(embedded) // len(ids)
            ids = ids.repeat_interleave(beams, 0)
        if ids is None or (embedded is not None and embedded.shape[:2] != ids.shape):
            raise BadInput("a patched model needs input_ids, to find image and prompt in them")
        mask = unpadded(call.mask, ids)
        return Batch(
            {"input_ids": ids, "attention_mask": mask},
            ids.new_full(ids.shape, IGNORED),
            self.spans(ids, mask),
        )

    def spans(self, ids: Tensor, mask: Tensor) -> list[Spans]:
        """Where image, prompt and answer are in the tokens (B, T) of a raw call that begins.

        In ``generate`` the prompt's length is known; for ids that the VLM has encoded, all spans
        are. Otherwise the answer begins at a row's first label; without labels all is prompt.
        """
        prompt = self.here.prompt
        labels = getattr(self.call, "labels", None)
        if prompt is None and (known := getattr(ids, "spans", None)):
            return list(known)
        image = self.vlm.image_tokens(ids) & mask.bool()
        if prompt is not None:
            return find_spans(image, mask, [ids.shape[1] - prompt] * len(ids))
        if labels is None or labels.shape != ids.shape:
            return find_spans(image, mask)
        return find_spans(image, mask, answer_lengths(labels.to(ids.device), image, mask.bool()))

    # Sites

    def hook_sites(self, functions: Mapping[str, SiteFn]) -> None:
        """Hook the sites of the functions, each once."""
        with self.lock:
            for site in functions.keys() - self.sites.keys():
                handle = self.hook_site(site)
                self.sites[site] = handle
                self.hooks.callback(handle.remove)

    def hook_site(self, site: str) -> Any:
        """Hook a site before the module's other hooks, so that they see the patched states.

        Raises :class:`UnsupportedModel` if the text decoder has no such module.
        """
        path = site.removesuffix(INPUT)
        try:
            module = self.vlm.decoder.get_submodule(path)
        except AttributeError:
            known = f"its layers are 0 to {self.vlm.num_layers - 1}"
            raise UnsupportedModel(f"the text decoder has no module '{path}': {known}") from None
        if path == site:
            return module.register_forward_hook(partial(self.change_output, site), prepend=True)
        return module.register_forward_pre_hook(partial(self.change_input, site), prepend=True)

    def acting(self, site: str) -> list[tuple[SiteFn, int]]:
        """The functions at a site in the current call, each with its number of rows.

        The innermost patch's comes first.
        """
        layer = site_layer(site.removesuffix(INPUT))
        if layer is not None and layer <= self.here.skipped:
            return []
        answers = self.call.__dict__.get("answers", ())
        return [
            (answer.functions[site], len(answer.batch))
            for answer in reversed(answers)
            if site in answer.functions
        ]

    def change_output(
        self, site: str, _module: nn.Module, _args: tuple[Any, ...], output: Any
    ) -> Any:
        """After a module: its output as the patches change it."""
        for function, rows in self.acting(site):
            output = act(function, output, rows, self.vlm.device)
        return output

    def change_input(self, site: str, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Before a module: its arguments, the first as the patches change it."""
        acting = self.acting(site)
        if acting and streams.apart_at_first(self.vlm.decoder):
            args = streams.end_to_end(args)
        for function, rows in acting:
            args = act_before(function, args, rows, self.vlm.device)
        return args

    def on_logits(self, _module: nn.Module, _args: tuple[Any, ...], logits: Tensor) -> Tensor:
        """After the output embedding: merge the logits."""
        device: torch.device = self.vlm.device
        for answer in self.call.__dict__.get("answers", ()):
            logits = answer.patch.merge(answer.batch, logits.to(device)).to(logits)
        return logits
