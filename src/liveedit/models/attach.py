"""Attachment: puts patches on a model, each for the calls of those who asked for it. The only code
that does so.

State of an answer belongs to the answer. The functions of a patch for a prompt are kept with the
prompt's cache of keys and values, or for the one call where there is none; so any number of threads
and of interleaved requests get what each would get alone. Which patches act is a matter of the
context: the thread, or the asyncio task, that entered :meth:`Attachment.patched`. A raw call of the
Hugging Face model from a thread that entered nothing, such as the one a streamer needs, goes by the
only context that has patches on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock, RLock, local
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor, nn

from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.batch import IGNORED, Batch, Spans, find_spans
from liveedit.models.calls import Call, arguments, cache_in
from liveedit.models.greedy import LOOKUP
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
from liveedit.models.wrappers import uncompiled

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM

__all__ = ["Attachment"]

FOLLOWED = "liveedit_answers"
"""The attribute of a cache that holds the answers which go on behind it."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A patch that is on the model, and whether it acts in calls, beyond the weights that it
    brings.

    ``rest`` is what its context has in place of patches once all of them are off, see
    :class:`Here`.
    """

    patch: Patch
    rest: "tuple[Scope, ...] | None" = None

    @property
    def acts(self) -> bool:
        """Whether the patch has a say in what goes through the text decoder."""
        return any(overrides(self.patch, place) for place in ("rewrite", "prefix", "bind", "merge"))


@dataclass(frozen=True, slots=True)
class Here:
    """What holds in one context: its patches, ``None`` if it has not been asked to have any, and
    the call under way.

    ``announced`` is the batch of a verb of the VLM, ``skipped`` the last layer that does not run,
    ``prompt`` the length of the prompt that a raw ``generate`` was given.
    """

    scopes: tuple[Scope, ...] | None = None
    announced: Batch | None = None
    skipped: int = -1
    prompt: int | None = None


_MAKING = Lock()
_HERE: ContextVar[Mapping[int, Here]] = ContextVar("liveedit", default={})  # noqa: B039  # never changed, only replaced


@dataclass(slots=True, eq=False)
class Answer:
    """What a patch does for one batch of prompts, and for all that is generated behind them."""

    patch: Patch
    batch: Batch
    functions: dict[str, SiteFn] = field(default_factory=dict)

    def moving(self, verb: str) -> list[Callable[..., None]]:
        """A method of the state that belongs to the answer, of what the functions are methods of,
        where it has one.
        """
        owners = [getattr(function, "__self__", function) for function in self.functions.values()]
        return [
            getattr(owner, verb)
            for owner in {id(owner): owner for owner in owners}.values()
            if hasattr(owner, verb)
        ]

    def goes_on(self, call: Call, ids: Tensor | None) -> None:
        """Go on behind ``call.past`` tokens: what is no longer in the cache is taken back.

        Raises :class:`BadInput` for other tokens ``ids`` (B, T') in the place of a prompt's.
        """
        asked = [row for row, span in enumerate(self.batch.spans) if call.past < span.prompt[1]]
        if asked and (
            ids is None
            or not torch.equal(ids[asked, 0], self.batch.inputs["input_ids"][asked, call.past])
        ):
            raise BadInput(
                "behind a cache that was cut other tokens make another prompt: give the whole text anew, and generate "
                f"without {LOOKUP}"
            )
        for rewind in self.moving("rewind"):
            rewind(call.past)
        if overrides(self.patch, "merge") and ids is not None:
            self.batch = self.batch.until(call.past).extended(ids)

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on behind row ``rows[i]``, as beams do."""
        self.batch = self.batch.pick(rows)
        for reorder in self.moving("reorder"):
            reorder(rows)


class Followed(dict[Patch, Answer]):
    """The answers that go on behind one cache, by their patches; a copy of the cache begins
    without.
    """

    def __deepcopy__(self, _memo: Any) -> "Followed":
        return Followed()

    @classmethod
    def of(cls, cache: Any) -> "Followed":
        """Those of ``cache``."""
        found: Followed | None = getattr(cache, FOLLOWED, None)
        if found is None:
            found = cls()
            setattr(cache, FOLLOWED, found)
            for name in ORDERS:
                if hasattr(cache, name):
                    setattr(cache, name, Reordering(cache, name))
        return found


class Reordering:
    """A method of a cache that answers follow. The cache is let go with its last user: it is in no
    circle with this.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self.cache, self.name = ref(cache), name

    def __reduce__(self) -> tuple[Any, ...]:
        """In a copy of the cache that of the copy."""
        return Reordering, (self.cache(), self.name)

    def __call__(self, given: Any) -> None:
        """Call the cache's own method, and let the answers follow."""
        cache = self.cache()
        getattr(type(cache), self.name)(cache, given)
        for answer in Followed.of(cache).values():
            answer.reorder(ORDERS[self.name](torch.arange(len(answer.batch)), given))


def chosen(rows: Tensor, given: Any) -> Tensor:
    """Those of ``rows`` (B,) that are ``given``, by their indices or as a mask."""
    return rows[given.to(rows.device) if isinstance(given, Tensor) else given]


ORDERS: dict[str, Callable[..., Tensor]] = {
    "reorder_cache": chosen,
    "batch_select_indices": chosen,
    "batch_repeat_interleave": Tensor.repeat_interleave,
}
"""The methods of caches that exchange rows, and which go on: of B rows (B,) and the method's
argument.
"""


class Exchanged(dict[str, Any]):
    """A module's parameters by name, of which some have other values in some contexts."""

    def __init__(self, attachment: "Attachment", own: dict[str, Any]) -> None:
        super().__init__(own)
        self.attachment, self.own = attachment, own
        self.others: dict[Scope, dict[str, Tensor]] = {}

    def here(self, name: str, value: Any) -> Any:
        """The value in this context of the parameter that else has ``value``."""
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
    """The patches on one Hugging Face model. Without any, nothing of it is touched."""

    known: ClassVar[WeakValueDictionary[int, "Attachment"]] = WeakValueDictionary()
    """That of each model, by its ``id``: an attachment keeps its model."""

    @classmethod
    def of(cls, vlm: "VLM") -> "Attachment":
        """The one of a VLM's model, which other VLMs may have made."""
        with _MAKING:
            found = cls.known.get(id(vlm.model))
            if found is None:
                found = cls.known[id(vlm.model)] = cls(vlm)
            return found

    def __init__(self, vlm: "VLM") -> None:
        self.vlm = vlm
        self.lock = RLock()
        self.entered: dict[Scope, tuple[Scope, ...]] = {}
        """The patches that are on, each with those before it in the context that entered it, and
        itself.
        """
        self.hooks, self.sites = ExitStack(), dict[str, Any]()
        self.users = 0
        self.call = local()

    # Contexts

    @property
    def here(self) -> Here:
        """What holds in this context."""
        here = _HERE.get().get(id(self)) or Here()
        if all(scope in self.entered for scope in here.scopes or ()):
            return here
        return replace(here, scopes=self.still_on(here.scopes))

    @here.setter
    def here(self, here: Here) -> None:
        others = {number: other for number, other in _HERE.get().items() if number != id(self)}
        _HERE.set(others if here == Here() else others | {id(self): here})

    def still_on(self, scopes: tuple[Scope, ...] | None) -> tuple[Scope, ...] | None:
        """What a context has of the patches that it had: some may have been left elsewhere, or
        before their turn.
        """
        return (
            tuple(scope for scope in scopes if scope in self.entered) or scopes[0].rest
            if scopes
            else scopes
        )

    @contextmanager
    def holding(self, **changes: Any) -> Iterator[None]:
        """Within it ``changes`` hold in this context."""
        before, depth = self.here, self.depth
        self.here = replace(before, **changes)
        try:
            yield
        finally:
            self.unwind(depth)
            self.here = before

    @contextmanager
    def patched(self, patch: Patch) -> Iterator[None]:
        """Put ``patch`` on the model for this context.

        Leaving, by an exception, too, takes this one off, in whatever order and context; then all
        is as it was.
        """
        before, depth = self.here.scopes, self.depth
        scope = Scope(patch, before[0].rest if before else before)
        with self.exchanged(scope, patch.weights()), self.hooked():
            with self.lock:
                self.entered[scope] = (*(before or ()), scope)
            self.here = replace(self.here, scopes=self.entered[scope])
            try:
                yield
            finally:
                self.unwind(depth)
                with self.lock:
                    del self.entered[scope]
                self.here = self.here  # which is without it now

    @property
    def depth(self) -> int:
        """How many calls of the model, each within the one before, are under way in this thread."""
        return len(self.call.__dict__.get("tokens", ()))

    def unwind(self, depth: int) -> None:
        """Leave all calls beyond ``depth``: they were interrupted, upon which torch calls no hooks."""
        if self.depth > depth:
            with suppress(ValueError):  # begun in another context
                _HERE.reset(self.call.tokens[depth])
            tokens = self.call.tokens[:depth]
            self.call.__dict__.clear()
            self.call.tokens = tokens

    @property
    def open(self) -> dict[Scope, tuple[Scope, ...]]:
        """The patches of each context that has some, by the last of them: raw calls from elsewhere
        may go by them.

        Not by those put on within ``unpatched``, as for an answer of one caller, or an edit that is
        being made.
        """
        below = {scope for scopes in self.entered.values() for scope in scopes[:-1]}
        last = (
            scope
            for scope in self.entered
            if scope not in below and self.entered[scope][0].rest is None
        )
        return {scope: self.still_on(self.entered[scope]) or () for scope in last}

    def asked_for(self) -> tuple[Scope, ...]:
        """The patches that act in a call that begins here.

        Raises :class:`BadInput` for a raw call from a thread of its own while several others have
        patches on.
        """
        here = self.here
        if here.scopes is not None or here.announced is not None:
            return here.scopes or ()
        with self.lock:
            stacks = list(self.open.values())
        if len(stacks) > 1:
            raise BadInput(
                "several threads have patched this model: enter `patched` in the thread that asks it"
            )
        return stacks[0] if stacks else ()

    # Parameters

    @contextmanager
    def exchanged(self, scope: Scope, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Give parameters new values where ``scope`` acts, tied ones included.

        The model's own tensors stay where they are, so nothing is copied and nothing can be
        rounded. Raises :class:`Mismatch` for values that do not fit this model,
        :class:`UnsupportedModel` for a parameter that is quantised or off-loaded.
        """
        changed: list[nn.Module] = []
        if weights:
            _ = self.vlm.fingerprint  # it names the unedited weights
        try:
            with self.lock:
                for module, leaf, value in self.places(weights):
                    changed.append(module)
                    self.shared(module).others.setdefault(scope, {})[leaf] = value
            yield
        finally:
            with self.lock:
                for module in changed:
                    if isinstance(parameters := vars(module)["_parameters"], Exchanged):
                        parameters.others.pop(scope, None)
                        if not parameters.others:
                            vars(module)["_parameters"] = parameters.own

    def shared(self, module: nn.Module) -> Exchanged:
        """The parameters of a module, made ready for other values."""
        own = vars(module)["_parameters"]
        if not isinstance(own, Exchanged):
            own = vars(module)["_parameters"] = Exchanged(self, own)
        return own

    def places(self, weights: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, Tensor]]:
        """Every module and name that holds one of the parameters, and the new value."""
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
                    f"the patch sets '{name}', which this model does not have: use the patch's own base model"
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
        """Have the hooks on the model, as long as anyone needs them."""
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
        """Step into every call of the model.

        The token ids are read off the model's call, otherwise off the input embedding, and the
        start of a batch off the text decoder: these two modules run in every call, ``generate`` of
        families that never call their own ``forward`` included.
        """
        vlm, undo = self.vlm, self.hooks
        for model in {vlm.model, vlm.model.base_model}:
            first = model.register_forward_pre_hook(
                self.enters, with_kwargs=True, prepend=True
            )  # before the family's
            undo.callback(first.remove)
            undo.callback(model.register_forward_hook(self.leaves, always_call=True).remove)
        embedding, head = vlm.model.get_input_embeddings(), output_embedding(vlm.model)
        undo.callback(embedding.register_forward_pre_hook(self.embeds).remove)
        undo.callback(vlm.decoder.register_forward_pre_hook(self.begins, with_kwargs=True).remove)
        undo.callback(vlm.decoder.register_forward_hook(self.ends, always_call=True).remove)
        undo.callback(head.register_forward_hook(self.predicts).remove)
        for name, replacement in (("generate", self.generates), ("save_pretrained", self.saves)):
            if name not in vars(vlm.model):
                vars(vlm.model)[name] = partial(replacement, getattr(vlm.model, name))
                undo.callback(vars(vlm.model).pop, name)

    def generates(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The model's ``generate``; called by itself, it says where its prompt ends.

        Raises :class:`BadInput` where a patch acts on questions, which are text no more, and where
        the model is to propose tokens to itself.
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

    def saves(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The model's ``save_pretrained``. Raises :class:`BadInput` under a patch that is not in
        the weights.
        """
        if any(scope.acts and len(scope.patch) for scope in self.asked_for()):
            raise BadInput(
                "these edits are not in the model's weights: save them beside it, with EditableVLM.save"
            )
        return own(*args, **kwargs)

    def check_raw(self, scopes: tuple[Scope, ...], ids: Tensor | None) -> None:
        """Raise :class:`BadInput` for a call that the VLM has not encoded, under a patch that acts
        before.
        """
        for patch in (scope.patch for scope in scopes if len(scope.patch)):
            name = type(patch).__name__
            if overrides(patch, "prefix"):
                raise BadInput(
                    f"{name} puts vectors before the text: ask by VLM.generate or VLM.logits"
                )
            if overrides(patch, "rewrite") and patch not in getattr(ids, "told_by", ()):
                raise BadInput(
                    f"{name} acts on a question before it is encoded: ask by VLM.generate or VLM.logits, "
                    "or encode the question within `patched`"
                )

    def check_assistant(self, assistant: Any) -> None:
        """Raise :class:`BadInput` where what proposes tokens is this model, or holds its text
        decoder.
        """
        if isinstance(assistant, nn.Module) and self.vlm.decoder in assistant.modules():
            raise BadInput(
                "assistant_model is the patched model itself: hand over another, or a copy of it made outside `patched`"
            )

    # One call

    def enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: settle which patches act, and keep token ids and labels, both (B, T'),
        of the call.
        """
        scopes = self.asked_for()
        tokens = self.call.__dict__.setdefault("tokens", [])
        tokens.append(_HERE.set({**_HERE.get(), id(self): replace(self.here, scopes=scopes)}))
        given = arguments(module.forward, args, kwargs) if args else kwargs
        if isinstance(ids := given.get("input_ids"), Tensor):
            self.call.ids, self.call.told = ids, True
        if isinstance(labels := given.get("labels"), Tensor):
            self.call.labels = labels

    def leaves(self, *_: Any) -> None:
        """After the model, also if it raised."""
        if tokens := self.call.__dict__.get("tokens"):
            _HERE.reset(tokens.pop())

    def embeds(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the input embedding of a model that was not called itself: keep the token ids (B,
        T').
        """
        if not getattr(self.call, "told", False) and args and args[0].ndim == 2:
            self.call.ids = args[0]

    def begins(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the text decoder: begin answers, or go on with those behind the call's cache.

        The vectors before the text of a new batch take the place of the embeddings of its filler
        tokens.
        """
        self.call.answers, self.call.new = [], False
        patches = [scope.patch for scope in self.here.scopes or () if scope.acts]
        if not patches:
            return None
        call = Call.read(self.vlm.decoder, args, kwargs)
        ids = call.input_ids if call.input_ids is not None else getattr(self.call, "ids", None)
        if call.past:
            self.call.answers = [self.behind(patch, call, ids) for patch in patches]
            return None
        self.check_prompt(call, ids)
        batch = self.batch(call, ids)
        self.call.answers, self.call.new = [Answer(patch, batch) for patch in patches], True
        for answer in self.call.answers:
            answer.functions = answer.patch.bind(batch)
            self.watch(answer.functions)
        self.follow(call.cache)
        if batch.prefix:
            return args, kwargs | {"inputs_embeds": batch.embedded(kwargs["inputs_embeds"])}
        return None

    def ends(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """After the text decoder, also if it raised: the answers go on behind the cache that it has
        made.
        """
        if self.call.__dict__.get("new") and output is not None:
            self.follow(cache_in(output))
        self.call.ids, self.call.labels, self.call.told, self.call.new = None, None, False, False
        if not any(
            overrides(answer.patch, "merge") for answer in self.call.__dict__.get("answers", ())
        ):
            self.call.answers = []

    def follow(self, cache: Any) -> None:
        """Have the answers under way go on behind ``cache``, if there is one."""
        if cache is not None:
            Followed.of(cache).update({answer.patch: answer for answer in self.call.answers})

    def behind(self, patch: Patch, call: Call, ids: Tensor | None) -> Answer:
        """The answer of ``patch`` that goes on in ``call``.

        Raises :class:`BadInput` where the cache's tokens were read without the patch, where it
        cannot be told whether those of the call belong to the answer or to another prompt, and as
        :meth:`Answer.goes_on`.
        """
        answer = Followed.of(call.cache).get(patch)
        if answer is None:
            raise BadInput(
                "the tokens in this cache were read without the patch: begin the text within `patched`"
            )
        here = self.here
        inside = here.announced is not None or (
            here.prompt is not None and call.past >= here.prompt
        )
        if call.length > 1 and not inside:
            raise BadInput(
                f"{call.length} tokens behind a cache may be an answer or another prompt: give the whole text anew, "
                "without a cache, or ask by generate"
            )
        if call.rows != len(answer.batch):
            raise BadInput(
                f"{call.rows} rows go on behind {len(answer.batch)}: begin them together"
            )
        answer.goes_on(call, ids)
        return answer

    def check_prompt(self, call: Call, ids: Tensor | None) -> None:
        """Raise :class:`BadInput` for a prompt that is not read whole, or not encoded for its
        patches.
        """
        here = self.here
        if here.announced is None and here.prompt is None:
            self.check_raw(here.scopes or (), ids)
        whole = here.prompt if here.announced is None else here.announced.labels.shape[1]
        if whole is not None and call.length < whole:
            raise BadInput(
                f"{call.length} of the {whole} tokens of a prompt: give all of them in one call, without "
                "prefill_chunk_size, or hand on the cache of those before"
            )

    def batch(self, call: Call, ids: Tensor | None) -> Batch:
        """The batch of a call that begins: the announced one, with what follows it in a call
        without a cache.

        Raises :class:`BadInput` if a raw call hides its token ids.
        """
        announced = self.here.announced
        if announced is not None:
            length = announced.labels.shape[1]
            return (
                announced
                if call.length == length or ids is None
                else announced.extended(ids[:, length:])
            )
        embedded = call.embedded
        if (
            ids is not None and embedded is not None and len(embedded) > len(ids)
        ):  # beams of each row
            ids = ids.repeat_interleave(len(embedded) // len(ids), 0)
        if ids is None or (embedded is not None and embedded.shape[:2] != ids.shape):
            raise BadInput(
                "a patched model needs input_ids: it reads off them where image and prompt are"
            )
        mask = unpadded(call.mask, ids)
        return Batch(
            {"input_ids": ids, "attention_mask": mask},
            ids.new_full(ids.shape, IGNORED),
            self.spans(ids, mask),
        )

    def spans(self, ids: Tensor, mask: Tensor) -> list[Spans]:
        """Where image, prompt and answer are in the tokens (B, T) of a raw call that begins.

        ``generate`` says where its prompt ends, and what the VLM has encoded where all parts are.
        Otherwise the answer begins at a row's first label; all is prompt where the call brings
        none.
        """
        prompt, labels = self.here.prompt, getattr(self.call, "labels", None)
        if prompt is None and (known := getattr(ids, "spans", None)):
            return list(known)
        image = self.vlm.image_tokens(ids) & mask.bool()
        if prompt is not None:
            return find_spans(image, mask, [ids.shape[1] - prompt] * len(ids))
        if labels is None or labels.shape != ids.shape:
            return find_spans(image, mask)
        return find_spans(image, mask, answer_lengths(labels.to(ids.device), image, mask.bool()))

    # Sites

    def watch(self, functions: Mapping[str, SiteFn]) -> None:
        """Hook the sites of the functions, each once."""
        with self.lock:
            for site in functions.keys() - self.sites.keys():
                path = site.removesuffix(INPUT)
                try:
                    module = self.vlm.decoder.get_submodule(path)
                except AttributeError:
                    known = f"its layers are 0 to {self.vlm.num_layers - 1}"
                    raise UnsupportedModel(
                        f"the text decoder has no module '{path}': {known}"
                    ) from None
                # First in line, so that whoever else watches this module sees the patched states.
                if path == site:
                    handle = module.register_forward_hook(
                        partial(self.puts_out, site), prepend=True
                    )
                else:
                    handle = module.register_forward_pre_hook(
                        partial(self.takes_in, site), prepend=True
                    )
                self.sites[site] = handle
                self.hooks.callback(handle.remove)

    def acting(self, site: str) -> list[tuple[SiteFn, int]]:
        """The functions at a site in the call under way, the innermost patch's first, and how many
        rows they get.
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

    def puts_out(self, site: str, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """After a module: what the patches make of its output."""
        for function, rows in self.acting(site):
            output = act(function, output, rows, self.vlm.device)
        return output

    def takes_in(self, site: str, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Before a module: what the patches make of its first argument."""
        for function, rows in self.acting(site):
            args = act_before(function, args, rows, self.vlm.device)
        return args

    def predicts(self, _module: nn.Module, _args: tuple[Any, ...], logits: Tensor) -> Tensor:
        """After the output embedding: merge the logits."""
        device: torch.device = self.vlm.device
        for answer in self.call.__dict__.get("answers", ()):
            logits = answer.patch.merge(answer.batch, logits.to(device)).to(logits)
        return logits


def unpadded(mask: Any, input_ids: Tensor) -> Tensor:
    """Which of the tokens (B, T) are not padding, from a decoder's mask (B, T) or (B, 1, T, T), or
    one for each kind.

    In a mask of pairs of tokens padding is what does not see itself. Without any mask nothing is
    padding. Raises :class:`BadInput` for several rows with a mask of another kind, as flex
    attention has it.
    """
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if isinstance(one, Tensor)), None)
    if isinstance(mask, Tensor) and mask.ndim == 4:
        seen = mask.diagonal(dim1=-2, dim2=-1)[:, 0]
        mask = (seen if seen.dtype == seen.bool().dtype else seen == 0).to(input_ids.dtype)
    if isinstance(mask, Tensor) and mask.shape == input_ids.shape:
        return mask
    if mask is not None and len(input_ids) > 1:
        raise BadInput(
            "padding cannot be told from this attention mask: ask row by row, or with another attention"
        )
    return input_ids.new_ones(input_ids.shape)


def answer_lengths(labels: Tensor, image: Tensor, real: Tensor) -> list[int]:
    """How many of a row's ``real`` tokens (B, T) stand from its first label (B, T) on, that is the
    first not ignored.

    0 where labels leave no prompt, because they begin with the text or before its ``image`` (B, T)
    ends.
    """
    begun = (real & (labels != IGNORED)).cumsum(1) > 0
    before = image.flip(1).cumsum(1).flip(1) > 0
    asked = (real & ~begun & ~before).any(1)
    lengths: list[int] = ((real & begun).sum(1) * asked).tolist()
    return lengths
