"""EditableVLM: a VLM, an editor and the edits made so far, in one object. The main entry point."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any, Unpack

import torch

from liveedit.artifacts import locked, new_folder, resolved_path, sync, writing
from liveedit.data.images import images_hash, open_image
from liveedit.editors import load_editor, new_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.editors.common.precedence import image_index, ledger_rows, question_number
from liveedit.editors.former_names import SHIPPED
from liveedit.errors import BadInput
from liveedit.hub.card import About
from liveedit.hub.repository import download, upload
from liveedit.models.edited_model import EditedModel
from liveedit.models.merging import save_merged
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import image_name
from liveedit.steering.checking import Finding, Progress, findings
from liveedit.steering.explaining import Explanation, explained
from liveedit.steering.switch import is_off, off
from liveedit.steering.trying import RECENT, Trial, probes, tried
from liveedit.store.durable import DurablePool, State, image_file
from liveedit.store.edit import Edit
from liveedit.store.exchange import import_edits
from liveedit.store.listing import FILE, Listing, tidy
from liveedit.store.makers import check_maker
from liveedit.store.pictures import load_queries
from liveedit.store.pool import Pool
from liveedit.store.published import EDITOR, FILES, check_repo, write_published
from liveedit.store.roll import ListedRoll
from liveedit.store.store import Maker, Store
from liveedit.types import Query, check_path, check_text, checked, expanded, visible

__all__ = [
    "EMBEDDED",
    "Edit",
    "EditableVLM",
    "default_editor",
    "embedded",
    "load",
    "load_kept",
    "load_vlm",
    "open_pool",
]

LOG = logging.getLogger(__name__)
DIGITS = 12
"""Digits of an edit's id: among a million edits two alike have a chance of 0.2 %."""
EMBEDDED = "emblem"
"""The name of the model that ships with the package."""


def embedded(name: str) -> Path:
    """The folder of a checkpoint that ships with the package.

    ``name`` is "vlm", or the name of an editor trained for it.
    """
    with as_file(files("liveedit") / "assets" / name) as folder:
        return folder


def load(
    model: str | Path = EMBEDDED,
    editor: str | Path | None = None,
    store: "Store | str | Path | None" = None,
    **options: Any,
) -> "EditableVLM":
    """Load a VLM with an editor, ready to be edited.

    ``model`` is "emblem" for the embedded one, a folder, or a Hugging Face id; ``editor`` the name
    of a method, or the folder of a trained editor, by default :func:`default_editor`. With
    ``store``, the path or URL of a database, the edits are kept there (:class:`EditableVLM`).
    ``options`` go to :meth:`VLM.load` (``dtype``, ``device_map``, ``prompt_format`` …).
    """
    kept = Store(store) if store is not None and not isinstance(store, Store) else store
    if editor is None:
        editor = default_editor(model, kept)
    check_path(editor)
    vlm = load_vlm(model, **options)
    opens_with = {
        "model": _named(model),
        "editor": str(editor) if _ships(model, editor) else _absolute(editor),
    }
    if options.get("dtype") is not None:
        opens_with["dtype"] = str(options["dtype"]).removeprefix("torch.")
    source = embedded(str(editor)) if _ships(model, editor) else editor
    loaded = load_editor(vlm, source)
    LOG.info("editor %s from %s, settings %s", loaded.name, source, loaded.config)
    return EditableVLM(vlm, loaded, kept, opens_with)


def load_kept(
    store: Store, model: str | Path | None = None, editor: str | Path | None = None, **options: Any
) -> "EditableVLM":
    """Load a VLM with the edits of a store as :func:`load` does.

    The model, its dtype and prompt format are as the store says unless they are given; dtype and
    format of another model are its own.
    """
    maker = store.remembered()
    made = maker.opens_with if maker else {}
    model = made.get("model", EMBEDDED) if model is None else model
    given = {name: value for name, value in options.items() if value is not None}
    if made.get("model") == _named(model):
        if "prompt_format" in made:
            given.setdefault("prompt_format", made["prompt_format"])
        if "dtype" in made:
            given.setdefault("dtype", getattr(torch, made["dtype"]))
    return load(model, editor, store, **given)


def default_editor(model: str | Path, store: Store | None = None) -> str:
    """The editor if none is given: that of the newest edit that the store has of this model.

    Otherwise, since only the embedded model has a trained editor, ``"pinpoint"`` for it and
    ``"direct"`` for others.
    """
    maker = store.newest_maker() if store else None
    if maker and maker.opens_with.get("model") == _named(model):
        if maker.editor_fingerprint in SHIPPED:
            return "pinpoint"  # which came after it
        return maker.opens_with.get("editor", maker.editor)
    return "pinpoint" if model == EMBEDDED else "direct"


def open_pool(vlm: VLM, store: Store) -> DurablePool:
    """The edits of a store that holds some, on a model that need not run by itself.

    The editor of the newest edit opens it. Raises what :class:`DurablePool` raises.
    """
    maker = store.newest_maker()
    assert maker is not None
    editor = _editor_of(vlm, maker)
    return DurablePool(
        store, Pool.empty(vlm, editor), dict(maker.opens_with), partial(_editor_of, vlm)
    )


def _ships(model: str | Path, editor: str | Path) -> bool:
    """Whether an editor is one of those that ship with the embedded model."""
    return model == EMBEDDED and embedded(str(editor)).is_dir()


def _named(model: str | Path) -> str:
    """A model's name in a store: "emblem", the absolute path of a folder, or a Hugging Face id."""
    return EMBEDDED if model == EMBEDDED else _absolute(model)


def _absolute(source: str | Path) -> str:
    """The absolute path of a folder; a name or id unchanged."""
    folder = expanded(source)
    return str(folder.absolute() if folder.is_dir() else source)


def load_vlm(model: str | Path = EMBEDDED, **options: Any) -> VLM:
    """Load the VLM of :func:`load` alone.

    The embedded model is stored in half precision and computes in float32, which is fifty times
    faster on a CPU.
    """
    if model == EMBEDDED:
        return VLM.load(embedded("vlm"), **{"dtype": torch.float32} | options)
    return VLM.load(model, **options)


class EditableVLM:
    """A VLM whose answers can be edited. Its own weights never change; the edits are a patch.

    With a ``store`` (:class:`liveedit.store.Store`, or its path or URL) every change is kept there
    before it takes effect, and changes that others make there take effect with the next answer;
    without one the edits last as long as this object. ``opens_with`` holds the arguments of
    :func:`load`, as far as the edits depend on them; a store keeps it. ``editor`` makes the new
    edits; the store may hold edits of other editors for the same model, which it opens. Raises what
    :meth:`VLM.check_answers` raises, and :class:`Mismatch` for the store of another model, and for
    one with an editor that is gone or does not mix with this one.
    """

    def __init__(
        self,
        vlm: VLM,
        editor: Editor,
        store: "Store | str | Path | None" = None,
        opens_with: Mapping[str, str] | None = None,
    ) -> None:
        vlm.check_answers()
        self.vlm = vlm
        self.opens_with = dict(opens_with or {})
        self._durable: DurablePool | None = None
        if store is not None:
            kept = store if isinstance(store, Store) else Store(store)
            empty = Pool.empty(vlm, editor)
            opens_with = _made_with(self.opens_with, editor)
            self._durable = DurablePool(kept, empty, opens_with, partial(_editor_of, vlm))
            LOG.info("store %s at version %d", kept, kept.version)
        self._pool = Pool.empty(vlm, editor)
        self._known: dict[Path, set[str]] = {}
        """For each folder, the states that were loaded from it, saved to it or begun there."""
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, without the store: a copy has edits of its own from then on."""
        state = {name: value for name, value in vars(self).items() if name != "_lock"}
        pool = replace(self.pool, roll=ListedRoll(self.pool.edits))
        return state | {"_pool": pool, "_durable": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = RLock()

    @property
    def store(self) -> "Store | None":
        """The store that keeps the edits, if there is one."""
        return self._durable.store if self._durable else None

    @property
    def kept(self) -> "State | None":
        """The edits as the store keeps them, as it is now; ``None`` without a store."""
        return self._durable.state if self._durable else None

    @property
    def pool(self) -> Pool:
        """The edits with their patch; a store's as it is now."""
        return self._durable.pool if self._durable else self._pool

    @property
    def editor(self) -> Editor:
        """The editor."""
        return self._pool.editor

    @property
    def patch(self) -> Patch:
        """The patch with which the model answers."""
        return self.pool.patch

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force, oldest first."""
        return self.pool.in_force

    @property
    def history(self) -> tuple[Edit, ...]:
        """All edits, oldest first; superseded ones name the edit that superseded them."""
        return self.pool.history

    def edit_of(self, query: Query) -> Edit | None:
        """The edit in force of this question about these images."""
        asked = question_number(query)
        roll = self.pool.roll
        return next(iter(roll.named(roll.latest([asked]).values())), None)

    def edit(self, queries: Query | Sequence[Query], *, who: str = "", why: str = "") -> list[Edit]:
        """Make the model answer each query's prompt about its image with its target, from now on.

        An edit supersedes the earlier edit of the same question about the same image, and is
        made for the first spelling of the question. See :class:`Edit` for what is reported of each;
        ``who`` and ``why`` are kept with it. Raises :class:`BadInput` for an empty prompt or
        target, for a text with null characters, for a target that the tokenizer cannot encode, and
        for an image that cannot be read; then none of the queries is edited.
        """
        given = checked(queries)
        new, opened = self._prepared(given, who, why)
        images = {}
        if self._durable:
            for edit, source in zip(new, given, strict=True):
                images[edit.id] = [image_file(image) for image in source.images]
        start = time.monotonic()
        with self._editing():
            pool = self._change("edit", who, lambda pool: pool.with_edits(new, opened), images)
        made = pool.newest(len(new))
        took = sum(bool(edit.took) for edit in made)
        seconds = time.monotonic() - start
        LOG.info("made %d edits in %.2f s, %d of them took", len(made), seconds, took)
        return made

    def _prepared(
        self, queries: Sequence[Query], who: str, why: str
    ) -> tuple[list[Edit], list[Query]]:
        """The entries of new edits, and their queries with opened images.

        Raises :class:`BadInput` as :meth:`edit` does.
        """
        given = checked(queries)
        check_text("who", who)
        check_text("why", why)
        for query in given:
            check_text("the target of a query", query.target)
            if not visible(query.prompt) or not visible(query.target):
                raise BadInput(
                    "an edit needs a question and a target: give both as text that is not empty"
                )
            self.vlm.check_target(query.target)
        opened = [_opened(query) for query in given]
        new = [
            _describe(query, source, who, why) for query, source in zip(opened, given, strict=True)
        ]
        return new, opened

    def _change(
        self,
        kind: str,
        who: str,
        make: Callable[[Pool], Pool],
        images: Mapping[str, Sequence[bytes]] | None = None,
    ) -> Pool:
        """Change the pool, and return it; with a store the change is kept first."""
        with self._lock:
            if self._durable:
                return self._durable.change(kind, who, make, images or {})
            self._pool = make(self._pool)
            return self._pool

    @contextmanager
    def _editing(self) -> Iterator[None]:
        """Run a block with the unedited model and with gradients, whatever the caller has set."""
        with self.vlm.unpatched(), torch.inference_mode(False), torch.enable_grad():
            yield

    def generate(self, queries: Query | Sequence[Query], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers of the edited model; within :meth:`disabled` of the unedited one."""
        with self._answering():
            return self.vlm.generate(checked(queries), max_new_tokens=max_new_tokens)

    @property
    def model(self) -> EditedModel:
        """The Hugging Face model with the edits, for a pipeline or any other code that takes one.

        Each call, ``generate`` and ``forward``, gets the edits that are in force when it begins;
        within :meth:`disabled` none. ``vlm.model`` is the model without edits. Methods that
        rewrite the question or put vectors before it refuse raw calls.
        """
        return EditedModel(self.vlm.model, self._answering)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Context in which the model has the edits, unless they are turned off here."""
        with ExitStack() as patches:
            patches.enter_context(self.vlm.unpatched())
            if not is_off(self):
                patches.enter_context(self.vlm.patched(self.patch))
            yield

    def unedited(self, queries: Query | Sequence[Query], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers of the unedited model."""
        asked = checked(queries)
        with self.vlm.unpatched():
            return self.vlm.generate(asked, max_new_tokens=max_new_tokens)

    # Seeing and steering

    @property
    def _seen(self) -> Pool:
        """The edits as they act here: within :meth:`disabled` none."""
        return Pool.empty(self.vlm, self.editor) if is_off(self) else self.pool

    def explain(self, query: Query, *, max_new_tokens: int = 16) -> Explanation:
        """The edits that fire on ``query`` with their scores, those that nearly do, and the answers
        with and without edits.
        """
        [query] = checked([query])
        return explained(self._seen, query, max_new_tokens)

    def try_edit(
        self, query: Query, among: Sequence[Query] | None = None, *, max_new_tokens: int = 16
    ) -> Trial:
        """Try an edit without keeping it: its answer, and the other answers that it would change.

        Those are looked for ``among`` some questions, by default unrelated ones and those of the
        newest edits whose images are kept. Raises what :meth:`edit` raises.
        """
        [edit], [opened] = self._prepared([query], "", "")
        pool = self._seen
        if among is None:
            among = probes(pool.editor.background_folder, self._others(pool, edit))
        with self._editing():
            return tried(pool, edit, opened, checked(among), max_new_tokens)

    def _others(self, pool: Pool, edit: Edit) -> Sequence[Query]:
        """The queries of the newest edits about other questions, as far as they are kept."""
        newest = pool.newest(min(2 * RECENT, len(pool.roll)))
        others = [o for o in newest if not o.superseded_by and o.number != edit.number]
        return [query for _, query in self._kept_queries(pool, others[-RECENT:])]

    def _kept_queries(self, pool: Pool, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Query]]:
        """Edits with their queries, as far as their images are kept."""
        return self._durable.queries(edits) if self._durable else pool.queries_of(edits)

    def check(
        self, background: str | Path | None = None, *, progress: Progress | None = None
    ) -> tuple[Finding, ...]:
        """Look for edits that do not take, that contradict each other, or fire where none should.

        Edits whose images are not kept cannot be asked again. ``background`` is a folder of images
        that no edit is about, by default the editor's own or drawings that ship with the package.
        ``progress`` is called as :data:`liveedit.steering.checking.Progress` says.
        """
        pool = self._seen
        kept = self._kept_queries(pool, pool.in_force)
        folder = pool.editor.background_folder if background is None else str(background)
        with self.vlm.unpatched():
            return tuple(findings(pool, kept, folder, progress or _silent))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Context in which this thread or asyncio task gets the answers of the unedited model.

        This holds for :meth:`generate`, for ``vlm``, and for the Hugging Face model itself;
        :meth:`explain`, :meth:`try_edit` and :meth:`check` see no edit. Others get edited answers
        meanwhile. May be nested.
        """
        with off(self), self.vlm.unpatched():
            yield

    def forget(self, ids: str | Iterable[str], *, who: str = "") -> list[Edit]:
        """Take edits back, given by id or by a unique beginning of it; return them in their order.

        Raises :class:`BadInput` for an id that no edit has, of one that is taken back already, and
        for a beginning that several share; then none is taken back.
        """
        wanted = _ids(ids)
        gone: list[Edit] = []

        def without(pool: Pool) -> Pool:
            if self.store is not None:
                for id in wanted:  # it says of one that it is taken back
                    self.store.find(id, present=True)
            found = sorted({pool.roll.find(id) for id in wanted})
            gone[:] = pool.roll.at(found)
            return pool.without(found)

        with self._editing():
            self._change("forget", who, without)
        return gone

    def import_edits(self, file: str | Path, *, who: str = "") -> int:
        """Add the exported edits of a file to the store; return the number of those added.

        Raises :class:`BadInput` without a store and for any other file, and :class:`Mismatch` for
        edits of another model or editor.
        """
        if self._durable is None:
            raise BadInput("edits are imported into a store: load the model with one")
        return import_edits(self._durable.store, file, who, self._durable.makers.admit)

    def save_merged(self, folder: str | Path) -> None:
        """Write the edited model as a checkpoint that transformers alone loads.

        Raises :class:`BadInput` for a method whose edits act beside the weights, and for an
        existing folder.
        """
        with self.vlm.unpatched():
            save_merged(self.vlm, self.patch, folder)

    def save(self, folder: str | Path) -> Path:
        """Write the edits to ``folder``, all or nothing: a failed save leaves the earlier state.

        ``folder`` is new, empty, or one that holds edits, which are replaced; other files in it
        stay as they are. Raises :class:`BadInput` for a folder with unrelated files, for a file,
        and where others have changed the edits since they were loaded from there or saved;
        :class:`StorageError` if it cannot be written.
        """
        Listing.find(folder)
        target = resolved_path(folder)
        with self._lock, locked(target):
            pool = self.pool
            before = Listing.find(target)
            known = self._known.setdefault(target, {before.tensors} if before else set())
            if before and before.tensors not in known:
                raise BadInput(
                    f"others have changed the edits in {folder}: "
                    "load them again, or choose another folder"
                )
            listing = self._listing(pool)
            try:
                pool.save(target / listing.tensors)
                with writing(folder):
                    sync(target)
                known.add(listing.tensors)
                listing.write(target)
            finally:
                tidy(target, before)
        return target

    def save_pretrained(
        self, folder: str | Path, *, hide_edits: bool = False, **about: Unpack[About]
    ) -> None:
        """Write the edits for others to a new folder, with a model card.

        It holds neither the model nor paths of this machine
        (:mod:`liveedit.store.published`). With ``hide_edits`` nobody can read the questions and
        answers in it. ``about`` is what the card says besides (:class:`liveedit.hub.card.About`).
        Raises :class:`BadInput` for an existing folder, and for methods that keep their edits as
        text if they are to be hidden.
        """
        with new_folder(folder) as part:
            name = resolved_path(folder).name
            made = _made_with(self.opens_with, self.editor)
            write_published(self.pool, made, part, name, about, hide_edits=hide_edits)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        hide_edits: bool = False,
        **about: Unpack[About],
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub; return its address.

        Edits that are there already are replaced. Needs a token with the right to write
        (``hf auth login``). Raises :class:`StorageError` where that fails, and :class:`BadInput`
        where the repository ``repo`` holds something else.
        """
        with TemporaryDirectory() as folder:
            part = Path(folder)
            made = _made_with(self.opens_with, self.editor)
            write_published(self.pool, made, part, repo, about, hide_edits=hide_edits)
            return upload(part, repo, "edits", check_repo, private=private, replaced=FILES)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        model: str | Path | None = None,
        store: "Store | str | Path | None" = None,
        **options: Any,
    ) -> "EditableVLM":
        """The model with the edits that :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        ``source`` is a folder or a Hugging Face id; ``model`` is needed where the edits do not name
        theirs. ``store``, which must hold no edits yet, keeps them from then on. ``options`` are
        those of :func:`load`. Raises :class:`BadInput` where there are no edits, and the errors of
        :func:`load` and :meth:`load`.
        """
        folder = expanded(source)
        if not folder.exists() and "/" in str(source):
            folder = download(str(source), "edits", FILES)
        made = Listing.read(folder).opens_with
        model = model or made.get("model")
        if model is None:
            raise BadInput(f"the edits in {source} do not name their model: give it as `model`")
        if store is not None:
            _check_empty(store)
        own = folder / EDITOR
        editor = own if own.is_dir() else made.get("editor")
        named = {name: made[name] for name in ("dtype", "prompt_format") if name in made}
        edited = load(model, editor, store, **named | options)
        edited.load(folder)
        return edited

    def _listing(self, pool: Pool) -> Listing:
        """The listing of the present state."""
        return Listing(
            editor=self.editor.name,
            editor_fingerprint=self.editor.fingerprint,
            model_fingerprint=self.vlm.fingerprint,
            edits=pool.edits,
            opens_with=_made_with(self.opens_with, self.editor),
        )

    @torch.inference_mode(False)
    def load(self, folder: str | Path) -> None:
        """Replace the edits by those of ``folder``, in the store, too, if there is one.

        Without a store the editor is replaced, too, if an earlier one made them: one that shipped
        with a former version of the package. Raises :class:`BadInput` if there are no edits or the
        files are damaged; :class:`Mismatch` if they were made with another model, editor or prompt
        format, which it names.
        """
        listing, editor, patch = self._read(folder)
        listed = sum(edit.held for edit in listing.edits)
        if len(patch) != listed:
            raise BadInput(
                f"{resolved_path(folder) / FILE} is damaged, it lists {listed} edits of "
                f"{len(patch)}: restore it from a copy, or make the edits again elsewhere"
            )
        patch = _with_ledger(patch, listing.edits)
        queries = load_queries(resolved_path(folder) / listing.tensors, listing.edits)
        pool = Pool(self.vlm, editor, patch, ListedRoll(listing.edits), queries)
        images = {id: [image_file(image) for image in queries[id].images] for id in queries}
        with self._lock:
            self._change("load", "", lambda _: pool, images)
            self._known[resolved_path(folder)] = {listing.tensors}
        self.opens_with = {**listing.opens_with, **self.opens_with}

    def _read(self, folder: str | Path) -> tuple[Listing, Editor, Patch]:
        """The listing of ``folder``, the editor that made it, and the patch.

        If another process replaces the edits meanwhile and so removes these tensors, the new
        listing is read.
        """
        listing = Listing.read(folder)
        maker = _maker(listing)
        editor = _opening(self.editor, maker)
        own = Maker(editor.name, editor.fingerprint, self.vlm.fingerprint, self.opens_with)
        check_maker(maker, own, self.vlm, folder)
        while True:
            try:
                return listing, editor, editor.load_patch(resolved_path(folder) / listing.tensors)
            except BadInput:
                read = listing
                listing = Listing.read(folder)
                if listing == read:
                    raise


def _check_empty(where: "Store | str | Path") -> None:
    """Raise :class:`BadInput` for a store that holds edits."""
    store = where if isinstance(where, Store) else Store(where)
    if store.makers_of_edits():
        raise BadInput(f"{store} holds edits, which these would replace: give a new store")


def _maker(listing: Listing) -> Maker:
    """The editor and the model that made the edits of a folder."""
    fingerprints = (listing.editor_fingerprint, listing.model_fingerprint)
    return Maker(listing.editor, *fingerprints, listing.opens_with)


def _made_with(opens_with: Mapping[str, str], editor: Editor) -> dict[str, str]:
    """The known arguments of :func:`load` that edits are made with, the prompt format included.

    An editor that :func:`load` has not loaded is known by its settings if it needs no training.
    """
    known = {**opens_with, "prompt_format": editor.vlm.prompt_format}
    if "editor" not in known and not isinstance(editor, TrainableEditor):
        known["settings"] = json.dumps(asdict(editor.config))
    return known


def _editor_of(vlm: VLM, maker: Maker) -> Editor:
    """The editor that made some edits, opened as they say. Raises what :func:`load_editor` does."""
    if maker.editor_fingerprint in SHIPPED:
        return _former(vlm, maker.editor_fingerprint)
    made = maker.opens_with
    if "settings" in made:
        return new_editor(vlm, maker.editor, json.loads(made["settings"]))
    source = made.get("editor", maker.editor)
    ships = _ships(made.get("model", EMBEDDED), source)
    return load_editor(vlm, embedded(source) if ships else source)


def _former(vlm: VLM, fingerprint: str) -> Editor:
    """The editor of this fingerprint, which shipped with an earlier version."""
    former = load_editor(vlm, embedded(SHIPPED[fingerprint]))
    assert isinstance(former, TrainableEditor)
    former.adopt_fingerprint(fingerprint)
    return former


def _opening(editor: Editor, maker: Maker) -> Editor:
    """The editor that opens edits: ``editor``, or the one that shipped before it and made them."""
    known = editor.vlm.known_as(maker.model_fingerprint)
    if maker.editor_fingerprint not in SHIPPED or not known:
        return editor
    if editor.name not in ("pinpoint", "liveedit"):
        return editor
    return _former(editor.vlm, maker.editor_fingerprint)


def _silent(stage: str, done: int, of: int) -> None:
    """Report no progress."""


def _opened(query: Query) -> Query:
    """The query with its images read from their files, once for all that follows."""
    return replace(query, image=[open_image(image) for image in query.images])


def _describe(query: Query, source: Query, who: str, why: str) -> Edit:
    """The entry of a new edit. ``source`` is the query as given, with the names of its images.

    The id is a hash of the edit and its time.
    """
    image = images_hash(query.images)
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    id = sha256("\x1f".join((query.prompt, query.target, image, time)).encode()).hexdigest()[
        :DIGITS
    ]
    names = tuple(image_name(image) for image in source.images)
    return Edit(
        id=id,
        prompt=query.prompt,
        target=query.target,
        image=image,
        time=time,
        names=names if any(names) else (),
        about=image_index(query),
        who=who,
        why=why,
    )


def _with_ledger(patch: Patch, edits: Sequence[Edit]) -> Patch:
    """The patch with the numbers of its questions, which patches of early versions lack."""
    if isinstance(patch, BankPatch) and bool((patch.ledger["asked"] < 0).any()):
        return patch.with_ledger(Bank(ledger_rows([edit.number for edit in edits])))
    return patch


def _ids(ids: str | Iterable[str]) -> list[str]:
    """One or several ids as a list. Raises :class:`BadInput` for anything but text."""
    given: list[Any] = [ids]
    if not isinstance(ids, str) and isinstance(ids, Iterable):
        given = list(ids)
    if not all(isinstance(id, str) for id in given):
        raise BadInput("an edit's id is text: give one that `edits` lists, or several")
    return given
