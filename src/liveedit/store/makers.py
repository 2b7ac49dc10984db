"""Makers: the editors that made the edits of a store, opened as the store says.

All edits of a store that are not taken back were made on one model with one prompt format. Several
editors may have made them, if these mix (:func:`liveedit.editors.common.mixed.mixes`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from liveedit.editors import editor_class
from liveedit.editors.base import Editor
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.mixed import mixes
from liveedit.errors import BadInput, LiveEditError, Mismatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.store.store import Change, Maker, Store
from liveedit.store.tensors import Layout

__all__ = ["Makers", "Opener", "check_maker", "check_together", "layout_of"]

Opener = Callable[[Maker], Editor]
"""Opens the editor that a maker names, for the model; raises a :class:`LiveEditError`."""
NAMED = 3
"""Edits that a message names."""


class Makers:
    """The makers of a store's edits with their editors.

    ``editor`` makes the new edits, and ``opens_with`` are the known arguments of
    :func:`liveedit.load`. ``opener`` opens the others, each once.
    """

    def __init__(
        self, store: Store, editor: Editor, opens_with: dict[str, str], opener: Opener
    ) -> None:
        self.store = store
        self.vlm: VLM = editor.vlm
        self.own = self._new(editor, opens_with)
        self._opener = opener
        self._editors = {editor.fingerprint: editor}
        self._known: dict[int, Maker] = {}
        self._of_model = {self.own.identity}
        """Makers that have been found to be on this model."""
        self._recalled: set[int] = set()
        """Numbers of the makers whose editors have got what they learned earlier."""

    def _new(self, editor: Editor, opens_with: dict[str, str]) -> Maker:
        """The maker that an editor is from now on."""
        layout = layout_of(editor.empty())
        fingerprints = (editor.fingerprint, self.vlm.fingerprint)
        return Maker(editor.name, *fingerprints, opens_with, layout)

    def check(self) -> None:
        """Raise :class:`Mismatch` for edits in the store of another model or prompt format, and of
        an editor that cannot be opened or does not mix with the others.

        Edits that are taken back do not count.
        """
        for maker in self.store.makers_of_edits():
            self._check_model(maker, self.store)
            self.editor(maker.number)

    def admit(self, maker: Maker) -> None:
        """Raise :class:`Mismatch` as :meth:`check`, for edits that are to be added."""
        self._check_model(maker, "the file")
        self._editor(maker, "the edits in the file")

    def editor(self, number: int) -> Editor:
        """The editor with the number of its maker. Raises :class:`Mismatch` as :meth:`check`."""
        if number not in self._known:
            self._known = {maker.number: maker for maker in self.store.makers()}
        maker = self._known[number]
        if maker.identity not in self._of_model:
            self._check_model(maker, self.store)
        editor = self._editor(maker, self._edits(maker))
        self._recall(maker, editor)
        return editor

    def maker(self, editor: Editor) -> Maker:
        """The maker that an editor is, for edits that are to be kept."""
        if editor.fingerprint == self.own.editor_fingerprint:
            return self.own
        for maker in self._known.values():
            if maker.identity == (editor.fingerprint, self.vlm.fingerprint):
                return maker
        self._editors[editor.fingerprint] = editor
        return self._new(editor, {**self.own.opens_with, "editor": editor.name})

    def keep(self, change: Change, editor: Editor) -> int:
        """Keep an editor as a maker, with what it has learned; return its number."""
        number = change.maker(self.maker(editor)).number
        wanted = isinstance(editor, BankEditor) and not change.has_weights(number)
        if wanted and (learned := editor.learned()):
            change.set_weights(number, bytes_of(learned))
        return number

    def _check_model(self, maker: Maker, where: object) -> None:
        """Raise what :func:`check_model` raises for a maker's edits."""
        check_model(maker, self.own, self.vlm, where)
        self._of_model.add(maker.identity)

    def _recall(self, maker: Maker, editor: Editor) -> None:
        """Give an editor that keeps each edit by itself what it has learned, once."""
        if maker.number in self._recalled or not maker.layout.columns:
            return
        self._recalled.add(maker.number)
        content = self.store.weights(maker.number)
        try:
            if content:
                editor.take_over(tensors_of(content))
        except (SafetensorError, LookupError, TypeError):
            raise BadInput(
                f"what {maker.editor} has learned is damaged in {self.store}: restore the store "
                "from a copy"
            ) from None

    def _edits(self, maker: Maker) -> Callable[[], str]:
        """The words that name a maker's edits in the store, for a message."""

        def words() -> str:
            ids = self.store.ids_made_by(maker.number, NAMED + 1)
            named = ", ".join(ids[:NAMED]) + " …" * (len(ids) > NAMED)
            return f"the edits in {self.store} ({named})"

        return words

    def _editor(self, maker: Maker, edits: str | Callable[[], str]) -> Editor:
        """The editor of a maker, opened once. ``edits`` names its edits in a message."""
        found = self._editors.get(maker.editor_fingerprint)
        if found is None:
            words = edits if isinstance(edits, str) else edits()
            found = self._editors[maker.editor_fingerprint] = self._opened(maker, words)
        return found

    def _opened(self, maker: Maker, edits: str) -> Editor:
        """The editor of a maker, if it is still the same and mixes with the others."""
        which = maker.opens_with.get("editor", maker.editor)
        if Path(which).is_absolute() and not Path(which).exists():
            raise Mismatch(
                f"{edits} were made by the editor in {which}, which no longer exists: restore it "
                "there, or give its new place as the editor"
            )
        try:
            editor = self._opener(maker)
        except LiveEditError as error:
            raise Mismatch(
                f"{edits} were made by another editor ({which}), which does not open: {error}"
            ) from None
        if editor.fingerprint != maker.editor_fingerprint:
            raise changed(edits, which)
        if not all(mixes(type(each)) for each in (editor, *self._editors.values())):
            raise Mismatch(
                f"{edits} were made by another editor ({which}), which does not mix with "
                f"{self.own.editor}: load that one, or keep new edits in another store"
            )
        return editor


def check_model(made_by: Maker, own: Maker, vlm: VLM, where: object) -> None:
    """Raise :class:`Mismatch` if edits were made with another model or prompt format.

    ``own`` is the present maker on the model ``vlm``; ``where`` says where the edits are kept.
    """
    if not vlm.known_as(made_by.model_fingerprint):
        raise Mismatch(f"the edits in {where} were made on {_model_to_load(made_by, own, vlm)}")
    form = made_by.opens_with.get("prompt_format", vlm.prompt_format)
    if form != vlm.prompt_format:
        raise Mismatch(
            f"the edits in {where} were made with another prompt format ({form}): "
            "load the model with it"
        )


def _model_to_load(made_by: Maker, own: Maker, vlm: VLM) -> str:
    """The words that name the model of some edits, which is not the present one, and the remedy."""
    made = made_by.opens_with
    if "model" not in made or made["model"] != own.opens_with.get("model"):
        return f"another model ({_named(made_by)}): load that one"
    if made.get("dtype") == own.opens_with.get("dtype"):
        return f"{made['model']} with other weights: load those, or use another store"
    present = str(vlm.dtype).removeprefix("torch.")
    if "dtype" not in made:
        return f"this model in its default dtype, not in {present}: load it without --dtype"
    wanted = made["dtype"]
    return f"this model in {wanted}, not in {present}: load it with --dtype {wanted}"


def check_maker(made_by: Maker, own: Maker, vlm: VLM, where: object) -> None:
    """Raise :class:`Mismatch` as :func:`check_model`, and if another editor made the edits."""
    check_model(made_by, own, vlm, where)
    if made_by.editor_fingerprint == own.editor_fingerprint:
        return
    edits = f"the edits in {where}"
    which = made_by.opens_with.get("editor", made_by.editor)
    if which == own.opens_with.get("editor") and made_by.editor == own.editor:
        raise changed(edits, which)
    raise Mismatch(f"{edits} were made by another editor ({which}): load that one")


def check_together(new: Sequence[Maker], where: object, store: Store) -> None:
    """Raise :class:`Mismatch` if the edits of ``new`` makers cannot be beside those of a store.

    All must be of one model and prompt format, and of editors that mix; no model is needed to see
    that. Edits that are taken back do not count. ``where`` says where the new ones are kept.
    """
    present = [(maker, str(store)) for maker in store.makers_of_edits()]
    for maker in new:
        for other, place in present:
            if difference := _difference(maker, other):
                one, another = difference
                raise Mismatch(
                    f"the edits in {where} were made {one}, those in {place} {another}: "
                    "keep them in a store of their own"
                )
        present.append((maker, str(where)))


def _difference(one: Maker, other: Maker) -> tuple[str, str] | None:
    """The words on each of two makers whose edits cannot be together; ``None`` if they can."""
    if one.model_fingerprint != other.model_fingerprint:
        first, second = _named(one), _named(other)
        if first == second:  # in another state
            first = f"{first} with the weights {one.model_fingerprint[:8]}"
            second = f"with {other.model_fingerprint[:8]}"
        return f"on another model ({first})", f"on {second}"
    form, other_form = (maker.opens_with.get("prompt_format") for maker in (one, other))
    if form and other_form and form != other_form:
        return f"with another prompt format ({form})", f"with {other_form}"
    same = one.editor_fingerprint == other.editor_fingerprint
    if same or all(mixes(editor_class(maker.editor)) for maker in (one, other)):
        return None
    return f"by {one.editor}", f"by {other.editor}, and these do not mix"


def _named(maker: Maker) -> str:
    """The name of a maker's model and its dtype, as far as they are known."""
    made = maker.opens_with
    named = " ".join(made[name] for name in ("model", "dtype") if name in made)
    return named or "one that it does not name"


def changed(edits: str, which: str) -> Mismatch:
    """The error for edits made by an earlier state of an editor."""
    return Mismatch(
        f"{edits} were made by {which} before it was trained further or "
        "replaced: restore that editor, or make the edits again elsewhere"
    )


def layout_of(patch: Patch) -> Layout:
    """The layout of a patch's rows; empty for a method whose weights hold all edits."""
    if not isinstance(patch, BankPatch):
        return Layout(())
    return Layout.of(patch.bank.tensors(), patch.factors)
