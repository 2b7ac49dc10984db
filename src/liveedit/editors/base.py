"""Editor: turns queries into a patch. TrainableEditor: one whose networks are trained beforehand.

A method is one file with one class, and one line in ``liveedit.editors.EDITORS``.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from liveedit.artifacts import read_tensors, resolved_path, write_file, write_tensors
from liveedit.editors.former_names import renamed
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.models.batch import HiddenBatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.settings import check, read_json, read_settings
from liveedit.types import Case, Query, checked, expanded, visible

__all__ = ["Editor", "Example", "TrainableEditor", "alone", "described"]

CONFIG, WEIGHTS = "config.json", "editor.safetensors"
"""The files of an editor's folder."""


@dataclass(slots=True)
class Example:
    """A case as training reads it, on the CPU in float32 and without padding.

    ``rows`` holds by kind, the metric's name, what the edit layer puts out for that query, as a
    batch of one; ``facts`` the query's :attr:`Query.fact`. ``base`` holds for the kinds that must
    not change the unedited log-probabilities (n, V) where the n answer tokens are predicted.
    ``about`` is the edit in words, for methods that read it.
    """

    rows: dict[str, HiddenBatch] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    about: str = ""


def alone(row: HiddenBatch) -> HiddenBatch:
    """One row in float32 on the CPU, in memory of its own."""
    positions = None if row.position_ids is None else row.position_ids.cpu().clone()
    copies = (
        row.hidden.float().cpu().clone(),
        row.attention_mask.cpu().clone(),
        row.labels.cpu().clone(),
    )
    extra = {name: value.cpu().clone() for name, value in row.extra.items()}
    return HiddenBatch(*copies, row.spans, positions, extra)


class Editor(ABC):
    """A method for one VLM. ``config`` ``None`` stands for the paper's settings."""

    name: ClassVar[str]
    """What the registry, the records and the command line call it."""
    paper: ClassVar[str]
    """Where it was published."""
    Config: ClassVar[type[Any]]
    """A frozen dataclass of settings whose defaults are the paper's."""

    config: Any

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        self.vlm, self.config = vlm, self.Config() if config is None else config
        check(self.config, f"{self.name}.")

    @classmethod
    def settings(cls, values: object, where: str = "") -> Any:
        """The config with ``values``, read from JSON; ``where`` they come from stands before a name
        in a message.

        Raises :class:`BadInput` for a setting that does not exist or that does not take its value.
        """
        return read_settings(cls.Config, values, where or f"{cls.name}.")

    @abstractmethod
    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> Patch:
        """A patch that holds what ``patch`` holds and, behind it, one edit a query.

        Neither ``patch`` nor the VLM changes. Raises :class:`BadInput` for a query that cannot be
        edited and :class:`Mismatch` for another editor's patch.
        """

    def empty(self) -> Patch:
        """A patch without edits."""
        return self.edit([])

    def select(self, patch: Patch, index: Sequence[int]) -> Patch:  # noqa: ARG002
        """The patch with the edits at ``index`` alone, in that order.

        Raises :class:`BadInput` where the method cannot take single edits back.
        """
        raise BadInput(f"{self.name} cannot take back single edits: start again without them")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that shapes a patch: the name and the settings."""
        return sha256(
            json.dumps([self.name, asdict(self.config)], sort_keys=True).encode()
        ).hexdigest()

    @property
    def origin(self) -> dict[str, str]:
        """What a patch says about where it comes from."""
        return {"editor": self.fingerprint, "model": self.vlm.fingerprint}

    def check(self, query: Query) -> None:
        """Raise :class:`BadInput` for a query that this method cannot edit."""
        if not visible(query.target):
            raise BadInput(f"an edit needs a target: say what '{query.prompt}' is to be answered")

    def begin(self, queries: Sequence[Query], patch: Patch | None) -> None:
        """What :meth:`edit` demands: queries that can be edited, an unedited VLM, a patch of this
        editor.
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
            self.own(patch)

    def own(self, patch: Patch) -> None:
        """Raise :class:`Mismatch` for another editor's patch."""
        maker = getattr(patch, "editor", None)
        if not isinstance(maker, Editor) or maker.origin != self.origin:
            raise Mismatch(
                "the patch was made by another editor: go on with the editor that made it"
            )

    def claim(self, about: Mapping[str, str], folder: Path) -> None:
        """Raise :class:`Mismatch` if what a patch in ``folder`` says about itself names another
        model or editor.
        """
        own = {
            "model": self.vlm.known_as(about.get("model")),
            "editor": about.get("editor") == self.fingerprint,
        }
        for kind, fits in own.items():
            if not fits:
                made, load = ("on", "that model") if kind == "model" else ("by", "that editor")
                raise Mismatch(
                    f"the edits in {folder} were made {made} another {kind}: load {load}, or make them again"
                )

    def load_patch(self, folder: Path) -> Patch:
        """The patch that ``Patch.save`` wrote.

        Raises :class:`BadInput` for what is not one, :class:`Mismatch` for one of another editor or
        another model.
        """
        raise NotImplementedError(f"patches of {self.name} cannot be loaded from {folder}")


class TrainableEditor(Editor):
    """An editor with networks of its own, trained on cases.

    Optimiser, devices and checkpoints belong to the training.
    """

    query_time: ClassVar[frozenset[str]] = frozenset()
    """Settings that may differ between the editor that made a patch and the one that opens it."""

    def __init__(self, vlm: VLM, config: Any = None) -> None:
        super().__init__(vlm, config)
        if getattr(self.config, "layer", 0) is None:
            self.config = replace(self.config, layer=2 * vlm.num_layers // 3)

    @property
    def layer(self) -> int:
        """The decoder layer, from 0, that the method reads or edits: the config's, or after two
        thirds of all.

        The released one, 21 of the 32 of LLaVA-7B, is there too. What is saved has it as a number.
        """
        layer: int = self.config.layer
        return layer

    @abstractmethod
    def networks(self) -> nn.ModuleDict:
        """All that is trained; the same object at every call."""

    def rates(self) -> dict[str, float]:
        """Learning rates of networks that do not take the training's, by name in :meth:`networks`."""
        return {}

    @abstractmethod
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """What the frozen VLM computes below the edit layer, once for the whole training.

        Raises :class:`BadInput` for a case that this editor cannot learn from.
        """

    @abstractmethod
    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise on a batch, and its terms by name. Random choices come from
        ``generator`` alone.
        """

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the name, every weight of the networks, and the settings that shape a patch."""
        state = self.networks().state_dict(keep_vars=True)
        known: tuple[Any, str] | None = getattr(self, "_fingerprint", None)
        if known is None or known[0] != _version(state):
            known = self._fingerprint = _version(state), self._digest(state)
        return known[1]

    def goes_by(self, fingerprint: str) -> None:
        """Take another fingerprint until a weight changes: that of the weights that these were
        rounded from.
        """
        self._fingerprint = _version(self.networks().state_dict(keep_vars=True)), fingerprint

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        """What the fingerprint says beside the weights: the name, and the settings that shape a
        patch.
        """
        return self.name, {
            name: value
            for name, value in asdict(self.config).items()
            if name not in self.query_time
        }

    def _digest(self, state: dict[str, Tensor]) -> str:
        digest = sha256(json.dumps(self.identity, sort_keys=True).encode())
        for name, tensor in sorted(state.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``editor.safetensors``, trained values as ``dtype`` if one is
        given.

        Buffers, such as running sums, keep their own. An editor that is there already is replaced
        whole: the new weights bring a copy of their settings, which counts until ``config.json`` is
        written too. Raises :class:`BadInput` for a folder that holds such files of somebody else's,
        or an editor of another method, :class:`StorageError` where writing fails.
        """
        folder = resolved_path(folder)
        again = _written(folder, self.name)
        about = {"editor": self.name, "model": self.vlm.fingerprint, "config": asdict(self.config)}
        state_of = json.dumps([self.fingerprint, str(dtype), about], sort_keys=True)
        about |= {"written": sha256(state_of.encode()).hexdigest()[:16]}
        trained = dict(self.networks().named_parameters(remove_duplicate=False))
        state = {
            name: tensor.detach().to("cpu", dtype if name in trained else None).clone().contiguous()
            for name, tensor in self.networks().state_dict().items()
        }
        write_tensors(folder / WEIGHTS, state, {"about": json.dumps(about)}, allow_unmarked=again)
        write_file(folder / CONFIG, (json.dumps(about, indent=2) + "\n").encode())

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Put what :meth:`save_pretrained` writes on the Hugging Face Hub, under the id ``repo``;
        its address.

        Needs a token with the right to write (``hf auth login``). Raises :class:`StorageError`
        where that fails, and :class:`BadInput` where the repository holds something else, which
        would be replaced.
        """
        from huggingface_hub import HfApi

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                found = HfApi().create_repo(repo, private=private, exist_ok=True)
                check_repo(repo, HfApi().list_repo_files(found.repo_id))
                HfApi().upload_folder(
                    repo_id=found.repo_id, folder_path=folder, commit_message=f"{self.name} editor"
                )
            except BadInput:
                raise
            except Exception as error:  # of whichever HTTP library the client uses
                reason = str(error).partition("\n")[0]
                raise StorageError(
                    f"cannot put the editor on Hugging Face as {repo}: {reason}"
                ) from error
        return str(found)

    @classmethod
    def from_pretrained(cls, vlm: VLM, folder: str | Path, **changes: Any) -> Self:
        """The editor that :meth:`save_pretrained` wrote, ``changes`` replacing settings of query
        time.

        Raises :class:`BadInput` for a folder without an editor or with a broken one, and
        :class:`Mismatch` for another method's editor or one that was trained for another model.
        """
        folder = expanded(folder)
        about = described(folder)
        try:
            state, said = read_tensors(folder / WEIGHTS)
            copy = json.loads(said.get("about", "{}"))
            if copy and copy["written"] != about.get(
                "written"
            ):  # a kill came between the two files
                about = renamed(copy)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(
                f"no editor can be read from {folder} ({error}): give a trained one's folder"
            ) from error
        if about["editor"] != cls.name:
            raise Mismatch(
                f"{folder} holds an editor of the method '{about['editor']}', not '{cls.name}'"
            )
        if not vlm.known_as(about.get("model")):
            reason = "another model, or for this one in a dtype with other bits"
            raise Mismatch(
                f"the editor in {folder} was trained for {reason}: load that one, or train an editor"
            )
        if wrong := sorted(changes.keys() - cls.query_time):
            raise BadInput(
                f"{', '.join(wrong)} cannot differ from the training: only {', '.join(sorted(cls.query_time))}"
            )
        editor = cls(vlm, cls.settings(about["config"] | changes, f"{folder / CONFIG}: config."))
        try:
            editor.networks().load_state_dict(state)
        except RuntimeError as error:
            raise Mismatch(
                f"the weights in {folder} do not fit its {CONFIG}: take both from one training"
            ) from error
        return editor


def _version(state: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """Where tensors are and how often they were written to: another value after any change."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())


def _written(folder: Path, method: str) -> bool:
    """Whether ``folder`` holds an editor of ``method``, to be replaced.

    Raises :class:`BadInput` for one of another method, and for files of these names that are
    somebody else's.
    """
    try:
        about = renamed(json.loads((folder / CONFIG).read_text(encoding="utf-8-sig")))
        found, _, _ = about["editor"], about["model"], about["config"]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(f"{folder / CONFIG} is no editor's: choose another folder") from None
    if found != method:
        raise BadInput(f"{folder} holds an editor of the method '{found}': choose another folder")
    return True


def check_repo(repo: str, held: Sequence[str]) -> None:
    """Raise :class:`BadInput` unless a repository that holds these files is empty or an editor's."""
    if CONFIG in held and WEIGHTS not in held:
        raise BadInput(
            f"{repo} on Hugging Face holds no editor but something else: give another id"
        )


def described(folder: Path) -> dict[str, Any]:
    """What the ``config.json`` of an editor's folder says: ``editor``, its method, and ``config``,
    its settings.

    A trained editor's also names its ``model``, by its fingerprint. Raises :class:`BadInput` for a
    folder without one.
    """
    about: Any = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    match about:
        case {"editor": str(), "config": dict()}:
            return renamed(about)
    raise BadInput(f"{folder} holds no editor: give the folder of a trained one")
