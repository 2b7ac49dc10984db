"""Editor: turns queries into a patch. TrainableEditor: an editor whose networks are trained first.

A method is one file or folder, and one entry in ``liveedit.editors.EDITORS``.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

import torch
from torch import Tensor, nn

from liveedit.artifacts import resolved_path
from liveedit.editors.common.examples import (
    EDIT,
    Example,
    TrainingQuery,
    chunks,
    detached_row,
    first_probes,
)
from liveedit.editors.editor_files import CONFIG, check_repo, read_editor, write_editor
from liveedit.errors import BadInput, Mismatch
from liveedit.hub.card import FILE as README
from liveedit.hub.card import About, Subject, card, hub_id
from liveedit.hub.repository import upload
from liveedit.models.batch import HiddenBatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.settings import check, read_settings
from liveedit.types import Case, Query, checked, expanded, visible

__all__ = ["Editor", "TrainableEditor"]

USAGE = """import liveedit

model = liveedit.load("{model}", editor="{repo}")"""
"""The code in the card of a trained editor."""
P = TypeVar("P", bound=Patch)
"""The patches of a method."""
X = TypeVar("X", bound=Example)
"""The training examples of a method."""


class Editor(ABC, Generic[P]):
    """An editing method for one VLM; ``config=None`` stands for the method's default settings."""

    name: ClassVar[str]
    """The method's name in the registry, in records and on the command line."""
    Config: ClassVar[type[Any]]
    """The frozen dataclass of its settings."""

    config: Any

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        self.vlm = vlm
        self.config = self.Config() if config is None else config
        check(self.config, f"{self.name}.")

    @classmethod
    def settings(cls, values: object, where: str = "") -> Any:
        """The config with ``values``, as read from JSON; ``where`` precedes names in messages.

        Raises :class:`BadInput` for an unknown setting or a value that the setting does not take.
        """
        return read_settings(cls.Config, values, where or f"{cls.name}.")

    @abstractmethod
    def edit(self, queries: Sequence[Query], patch: P | None = None) -> P:
        """A patch with all edits of ``patch`` followed by one edit for each query.

        Neither ``patch`` nor the VLM changes. Raises :class:`BadInput` for a query that cannot be
        edited and :class:`Mismatch` for another editor's patch.
        """

    def empty(self) -> P:
        """A patch without edits."""
        return self.edit([])

    @property
    def editors(self) -> "tuple[Editor[Any], ...]":
        """The editors whose edits its patches hold: itself alone."""
        return (self,)

    def editor_of(self, patch: P, index: int) -> "Editor[Any]":  # noqa: ARG002
        """The editor that made the edit at ``index`` of a patch."""
        return self

    def select(self, patch: P, index: Sequence[int]) -> P:  # noqa: ARG002
        """The patch with only the edits at ``index``, in that order.

        Raises :class:`BadInput` where the method cannot take single edits back.
        """
        raise BadInput(f"{self.name} cannot take back single edits: start again without them")

    @property
    def background_folder(self) -> str:
        """Folder of images that edits should not fire on; empty: drawings that ship."""
        return ""

    @property
    def false_firing(self) -> float | None:
        """Stated rate at which an unrelated image that is asked an edit's question makes any edit
        fire; ``None`` for a method that states none.
        """
        return None

    def learned(self) -> dict[str, Tensor]:
        """The tensors that the editor has learned of the model by itself, by default none; they are
        to be kept with its edits.
        """
        return {}

    def take_over(self, learned: Mapping[str, Tensor]) -> None:
        """Go on with what :meth:`learned` gave elsewhere, rather than learn it again."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that shapes a patch: the name and the settings."""
        return sha256(
            json.dumps([self.name, asdict(self.config)], sort_keys=True).encode()
        ).hexdigest()

    @property
    def origin(self) -> dict[str, str]:
        """The fingerprints of editor and model, which every saved patch carries."""
        return {"editor": self.fingerprint, "model": self.vlm.fingerprint}

    def check(self, query: Query) -> None:
        """Raise :class:`BadInput` for a query that this method cannot edit."""
        if not visible(query.target):
            raise BadInput(f"an edit needs a target: give the new answer to '{query.prompt}'")

    def validate(self, queries: Sequence[Query], patch: P | None) -> None:
        """Check what :meth:`edit` requires before it starts.

        That is: queries that can be edited, an unedited VLM, gradients allowed, and a patch of this
        editor. Raises :class:`BadInput` or :class:`Mismatch`.
        """
        for query in checked(queries):
            self.check(query)
        if torch.is_inference_mode_enabled():
            raise BadInput("an edit needs gradients: leave torch.inference_mode() before editing")
        if self.vlm.patches:
            raise BadInput(
                "an edit starts from the unedited model: leave `patched` before editing or training"
            )
        if patch is not None:
            self.require_own_patch(patch)

    def require_own_patch(self, patch: Patch) -> None:
        """Raise :class:`Mismatch` for another editor's patch."""
        maker = getattr(patch, "editor", None)
        if maker is self:
            return
        if not isinstance(maker, Editor) or maker.origin != self.origin:
            raise Mismatch(
                "the patch was made by another editor: go on with the editor that made it"
            )

    def require_same_origin(self, origin: Mapping[str, str], folder: Path) -> None:
        """Raise :class:`Mismatch` if a patch saved in ``folder`` is of another model or editor.

        ``origin`` is the :attr:`origin` of its editor, as saved with the patch.
        """
        fits = {
            "model": self.vlm.known_as(origin.get("model")),
            "editor": origin.get("editor") == self.fingerprint,
        }
        advice = {
            "model": "made on another model: load that model",
            "editor": "made by another editor: load that editor",
        }
        for part, same in fits.items():
            if not same:
                raise Mismatch(f"the edits in {folder} were {advice[part]}, or make them again")

    def load_patch(self, folder: Path) -> P:
        """The patch that :meth:`Patch.save` wrote into ``folder``.

        Raises :class:`BadInput` for anything but a patch, :class:`Mismatch` for a patch of another
        editor or another model.
        """
        raise NotImplementedError(f"patches of {self.name} cannot be loaded from {folder}")


class TrainableEditor(Editor[P], Generic[P, X]):
    """An editor with networks that are trained on cases.

    ``liveedit.train`` takes care of optimiser, devices and checkpoints. Settings
    ``generality`` and ``locality`` name the metrics whose probes the networks are trained on, and
    ``eos`` says whether targets end with the end-of-text token.
    """

    inference_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that the fingerprint leaves out: they shape the training alone, or may change after
    it.
    """
    example_class: ClassVar[type[Any]] = Example
    """The class of the method's training examples."""

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        super().__init__(vlm, config)
        self._known_fingerprint: tuple[Any, str] | None = None
        if getattr(self.config, "layer", 0) is None:
            self.config = replace(self.config, layer=2 * vlm.num_layers // 3)

    @classmethod
    def fitted(cls, vlm: VLM, cases: Sequence[Case]) -> dict[str, Any]:  # noqa: ARG003
        """Settings that suit a model and the cases to train on, where the defaults do not.

        The defaults are those published for models of 7 billion parameters.
        """
        return {"eos": True}

    @classmethod
    def learns_from(cls, case: Case) -> bool:
        """Whether the method can be trained on a case: one edit."""
        return len(case.edits) == 1

    @property
    def layer(self) -> int:
        """The decoder layer, from 0, whose output the method reads or edits.

        It is the setting ``layer``, or by default the layer at two thirds of the depth, like the
        released layer 21 of LLaVA-7B's 32. A saved editor stores its number.
        """
        layer: int = self.config.layer
        return layer

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.networks().parameters()).device

    @abstractmethod
    def networks(self) -> nn.ModuleDict:
        """All modules that are trained; the same object at every call."""

    def rates(self) -> dict[str, float]:
        """Learning rates of networks with a rate of their own, by name in :meth:`networks`."""
        return {}

    @abstractmethod
    def loss(
        self, examples: Sequence[X], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise on a batch, and its terms by name.

        All random choices are drawn from ``generator``.
        """

    # Training examples

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[X]:
        """Compute with the frozen VLM what training needs of each case, once for all steps.

        Raises :class:`BadInput` for a case that this editor cannot learn from.
        """
        self.validate([], None)
        examples = [self.new_example() for _ in cases]
        asked = list[TrainingQuery[X]]()
        for example, case in zip(examples, cases, strict=True):
            for kind, query in self.training_queries(case).items():
                example.facts[kind] = query.fact
                asked.append(TrainingQuery(example, kind, query))
        for chunk in chunks(asked):
            self.observe(chunk)
        return examples

    def new_example(self) -> X:
        """An empty example, for :meth:`observe` to fill."""
        made: X = self.example_class()
        return made

    def training_queries(self, case: Case) -> dict[str, Query]:
        """The queries of a case that training reads, by kind.

        Of several probes of a metric it reads the first.
        Raises :class:`BadInput` for a case that is not one edit.
        """
        if len(case.edits) != 1:
            raise BadInput(f"case {case.id} is not one edit: {self.name} cannot be trained on it")
        self.check(case.edits[0])
        metrics = (*self.config.generality, *self.config.locality)
        return {EDIT: case.edits[0]} | first_probes(case, metrics)

    def must_stay(self, kind: str) -> bool:
        """Whether answers to queries of this kind must stay those of the unedited model."""
        return kind in self.config.locality

    @property
    def observed_layer(self) -> int:
        """The decoder layer whose output :meth:`observe` keeps."""
        return self.layer

    def observe(self, asked: Sequence[TrainingQuery[X]]) -> None:
        """Store in the queries' examples what training needs.

        By default: the hidden states at :attr:`observed_layer`, and where the answer must stay, the
        unedited log-probabilities of its tokens.
        """
        batch = self.vlm.encode([item.query for item in asked], eos=self.config.eos)
        rows = self.vlm.hidden(batch, self.observed_layer).rows()
        for item, row in zip(asked, rows, strict=True):
            item.example.rows[item.kind] = detached_row(row)
        staying = [item for item in asked if self.must_stay(item.kind)]
        if not staying:
            return
        known = self.answer_log_probabilities([item.example.rows[item.kind] for item in staying])
        for item, log_probabilities in zip(staying, known, strict=True):
            item.example.base[item.kind] = log_probabilities.cpu().clone()

    def answer_log_probabilities(self, rows: Sequence[HiddenBatch]) -> list[Tensor]:
        """The model's log-probabilities (n, V) at the positions that predict each row's n answer
        tokens; ``rows`` are at :attr:`observed_layer`.
        """
        hidden = self.on_device(HiddenBatch.stack(rows))
        positions = hidden.answer_positions()
        logits = self.vlm.resume(self.observed_layer, hidden, positions)
        parts = logits.float().log_softmax(-1).split_with_sizes(positions.sum(1).tolist())
        return list(parts)

    def on_device(self, hidden: HiddenBatch) -> HiddenBatch:
        """``hidden`` on the networks' device and in the VLM's dtype."""
        hidden = hidden.to(self.device)
        hidden.hidden = hidden.hidden.to(self.vlm.dtype)
        return hidden

    # Fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name, settings that shape a patch, and every weight of the networks."""
        state = self.networks().state_dict(keep_vars=True)
        known = self._known_fingerprint
        if known is None or known[0] != _version(state):
            known = (_version(state), self._digest(state))
            self._known_fingerprint = known
        return known[1]

    def adopt_fingerprint(self, fingerprint: str) -> None:
        """Use another fingerprint until a weight changes.

        It is the fingerprint of the original weights, from which these were rounded.
        """
        state = self.networks().state_dict(keep_vars=True)
        self._known_fingerprint = (_version(state), fingerprint)

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        """The fingerprint without the weights: the name, and settings that shape a patch."""
        settings = asdict(self.config)
        shaping = {name: settings[name] for name in settings if name not in self.inference_settings}
        return self.name, shaping

    def _digest(self, state: dict[str, Tensor]) -> str:
        digest = sha256(json.dumps(self.identity, sort_keys=True).encode())
        for name, tensor in sorted(state.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    # Saving and loading

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``editor.safetensors`` (see ``editor_files.py``).

        Trained values are stored in ``dtype``, if given; buffers, such as running sums, keep their
        own. An editor of this method that is there already is replaced whole. Raises
        :class:`BadInput` for a folder with another method's editor or unrelated files of these
        names, :class:`StorageError` where writing fails.
        """
        folder = resolved_path(folder)
        info = {
            "editor": self.name,
            "model": self.vlm.fingerprint,
            "dtype": _dtype(self.vlm),
            "prompt_format": self.vlm.prompt_format,
            "config": asdict(self.config),
        }
        state_id = json.dumps([self.fingerprint, str(dtype), info], sort_keys=True)
        trained = dict(self.networks().named_parameters(remove_duplicate=False))
        state = dict[str, Tensor]()
        for name, tensor in self.networks().state_dict().items():
            stored = tensor.detach().to("cpu", dtype if name in trained else None)
            state[name] = stored.clone().contiguous()
        write_editor(folder, info, state, state_id)

    def push_to_hub(self, repo: str, *, private: bool = False, **about: Unpack[About]) -> str:
        """Upload what :meth:`save_pretrained` writes, with a model card, to the Hugging Face Hub;
        return its address.

        ``about`` is what the card says besides (:class:`liveedit.hub.card.About`). Needs a token
        with the right to write (``hf auth login``). Raises :class:`StorageError` where that fails,
        and :class:`BadInput` where the repository ``repo`` holds something else, which would be
        replaced.
        """
        text = card(self._subject(repo, about), about)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / README).write_text(text, encoding="utf-8")
            return upload(Path(folder), repo, f"{self.name} editor", check_repo, private=private)

    def _subject(self, repo: str, about: About) -> Subject:
        """The subject of this editor's card."""
        model = about.get("base_model") or hub_id(self.vlm.model.name_or_path)
        return Subject(
            repo=repo,
            method=self.name,
            model=model,
            fingerprint=self.fingerprint,
            model_fingerprint=self.vlm.fingerprint,
            opens_with={"dtype": _dtype(self.vlm), "prompt_format": self.vlm.prompt_format},
            false_firing=self.false_firing,
            usage=USAGE.format(model=model or "MODEL", repo=repo),
        )

    @classmethod
    def from_pretrained(cls, vlm: VLM, folder: str | Path, **changes: Any) -> Self:
        """The editor that :meth:`save_pretrained` wrote; ``changes`` replace inference settings.

        Raises :class:`BadInput` for a folder without an editor or with a damaged one, and
        :class:`Mismatch` for another method's editor or one that was trained for another model.
        """
        folder = expanded(folder)
        info, state = read_editor(folder)
        if info["editor"] != cls.name:
            raise Mismatch(
                f"{folder} holds an editor of the method '{info['editor']}', not '{cls.name}'"
            )
        _check_model(vlm, info, folder)
        if wrong := sorted(changes.keys() - cls.inference_settings):
            allowed = ", ".join(sorted(cls.inference_settings))
            raise BadInput(f"{', '.join(wrong)} cannot differ from the training: only {allowed}")
        editor = cls(vlm, cls.settings(info["config"] | changes, f"{folder / CONFIG}: config."))
        try:
            editor.networks().load_state_dict(state)
        except RuntimeError as error:
            raise Mismatch(
                f"the weights in {folder} do not fit its {CONFIG}: take both from one training"
            ) from error
        return editor


def _check_model(vlm: VLM, info: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`Mismatch` for an editor of another model, dtype or prompt format.

    ``info`` is the content of its ``config.json``; older ones name no dtype and no format.
    """
    form = info.get("prompt_format", vlm.prompt_format)
    if not vlm.known_as(info.get("model")):
        dtype = info.get("dtype")
        if dtype not in (None, _dtype(vlm)):
            advice = f"this one is in {_dtype(vlm)}, that was in {dtype}: try --dtype {dtype}"
        else:
            advice = "load that one"
        raise Mismatch(
            f"the editor in {folder} was trained for another model, or for this one in another "
            f"dtype: {advice}, or train an editor"
        )
    if form != vlm.prompt_format:
        raise Mismatch(
            f"the editor in {folder} was trained with the prompt format {form}, not "
            f"{vlm.prompt_format}: give --prompt-format {form}, or train an editor"
        )


def _dtype(vlm: VLM) -> str:
    """The type of a model's weights as options name it."""
    return str(vlm.dtype).removeprefix("torch.")


def _version(state: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """The address of each tensor and its number of writes; both show a change of the weights."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())
