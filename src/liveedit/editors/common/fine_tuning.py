"""Base classes for editors that optimise tensors by gradient descent, one edit after another.

ValuesPatch holds such tensors (its values), WeightsPatch those that replace weights of the model,
and FineTuningEditor optimises them.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from liveedit.artifacts import read_tensors, write_tensors
from liveedit.editors.base import Editor
from liveedit.errors import BadInput
from liveedit.models.patch import Patch
from liveedit.models.wrappers import named_here
from liveedit.types import Query

__all__ = ["FineTuningEditor", "ValuesPatch", "WeightsPatch"]


class ValuesPatch(Patch):
    """``count`` edits that share ``values``, tensors by name."""

    FILE: ClassVar[str]

    def __init__(self, editor: Editor, values: Mapping[str, Tensor], count: int) -> None:
        self.editor = editor
        self.values = dict(values)
        self.count = count

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of the values, however many edits they hold."""
        return sum(value.nbytes for value in self.values.values())

    def save(self, folder: Path) -> None:
        """Write the values and their origin. Raises :class:`StorageError` where that fails."""
        values = {name: value.detach().cpu().contiguous() for name, value in self.values.items()}
        metadata = self.editor.origin | {"edits": str(len(self))}
        write_tensors(Path(folder) / self.FILE, values, metadata)

    @classmethod
    def load(cls, editor: Editor, folder: Path) -> Self:
        """The patch that :meth:`save` wrote, on the model's device.

        Raises :class:`BadInput` for a missing or damaged file, :class:`Mismatch` for a patch of
        another editor or another model.
        """
        file = Path(folder) / cls.FILE
        values, metadata = read_tensors(file)
        if not metadata.get("edits", "").isdecimal():
            raise BadInput(
                f"{file} does not say how many edits it holds: it is damaged, or no patch"
            )
        count = int(metadata["edits"])
        editor.require_same_origin(metadata, folder)
        device = editor.vlm.device
        return cls(editor, {name: value.to(device) for name, value in values.items()}, count)


class WeightsPatch(ValuesPatch):
    """``values`` are whole parameters of the model, by their names in the Hugging Face model."""

    FILE = "weights.safetensors"

    @classmethod
    def load(cls, editor: Editor, folder: Path) -> Self:
        """See :meth:`ValuesPatch.load`. Names are this model's, with or without PEFT around it."""
        loaded = super().load(editor, folder)
        model = editor.vlm.model
        values = {named_here(model, name): value for name, value in loaded.values.items()}
        return cls(editor, values, loaded.count)

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return self.values


W = TypeVar("W", bound=WeightsPatch)


class FineTuningEditor(Editor[W]):
    """Optimises values by gradient descent for each edit, starting from those after the last edit.

    A method gives their initial state (:meth:`start`) and the :meth:`optimizer`. They are float32,
    whatever the model's dtype. Single edits cannot be taken back. Settings are ``steps``, the
    maximum number of steps per edit, ``stop``, the loss below which an edit ends, and ``eos``.
    """

    patch_class: ClassVar[type[Any]] = WeightsPatch
    """The class of the patch with the values."""

    @abstractmethod
    def start(self) -> dict[str, Tensor]:
        """The values before any edit, by their names in the patch."""

    @abstractmethod
    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """A new optimiser, for one edit."""

    @contextmanager
    def answering(self, query: Query) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
        """A function that computes the answer's logits (n, V), and its n tokens (n,).

        The function has to be called under the patch. What the patch cannot change is computed
        once.
        """
        batch = self.vlm.encode([query], eos=self.config.eos)
        positions = batch.answer_positions()
        with self.vlm.vision_once():
            yield lambda: self.vlm.logits(batch)[positions], batch.answer_tokens()

    def edit(self, queries: Sequence[Query], patch: W | None = None) -> W:
        """See :meth:`Editor.edit`."""
        self.validate(queries, patch)
        if patch is None:
            patch = self.patch_class(self, {}, 0)
        if not queries:
            return patch
        values = dict[str, Tensor]()
        for name, value in self.start().items():
            known = patch.values.get(name, value)
            values[name] = known.detach().float().clone().requires_grad_()
        for query in queries:
            self.fit(values, query)
        final = {name: value.detach() for name, value in values.items()}
        made: W = self.patch_class(self, final, len(patch) + len(queries))
        return made

    @torch.enable_grad()
    def fit(self, values: dict[str, Tensor], query: Query) -> None:
        """Optimise ``values``, in place, until the model answers ``query`` with its target.

        That is until the mean negative log-likelihood of the target's tokens is below
        ``config.stop``, or for ``config.steps`` steps.
        """
        optimizer = self.optimizer(list(values.values()))
        moving = self.patch_class(self, values, 1)
        with self.answering(query) as (logits, target):
            for _ in range(self.config.steps):
                with self.vlm.patched(moving):
                    predicted = logits()
                loss = F.cross_entropy(predicted.float(), target.to(predicted.device))
                if loss < self.config.stop:
                    break
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()

    def load_patch(self, folder: Path) -> W:
        """See :meth:`Editor.load_patch`."""
        made: W = self.patch_class.load(self, folder)
        return made
