"""What methods that move values by gradient descent share.

ValuesPatch, the values they reach; WeightsPatch, where those are weights; DirectEditor, which gets
there.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

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

__all__ = ["DirectEditor", "ValuesPatch", "WeightsPatch"]


class ValuesPatch(Patch):
    """``count`` edits written into ``values``, tensors by name that hold all of them together."""

    FILE: ClassVar[str]

    def __init__(self, editor: Editor, values: Mapping[str, Tensor], count: int) -> None:
        self.editor, self.values, self.count = editor, dict(values), count

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes that the values take up, however many edits they hold."""
        return sum(value.nbytes for value in self.values.values())

    def save(self, folder: Path) -> None:
        """Write the values, and whose they are, as :func:`write_tensors` does."""
        values = {name: value.detach().cpu().contiguous() for name, value in self.values.items()}
        write_tensors(
            Path(folder) / self.FILE, values, self.editor.origin | {"edits": str(len(self))}
        )

    @classmethod
    def load(cls, editor: Editor, folder: Path) -> Self:
        """What :meth:`save` wrote, where the model is.

        Raises :class:`BadInput` for a file that is missing or broken, :class:`Mismatch` for one of
        another editor or another model.
        """
        file = Path(folder) / cls.FILE
        values, about = read_tensors(file)
        if not about.get("edits", "").isdecimal():
            raise BadInput(
                f"{file} does not say how many edits it holds: it is damaged, or no patch"
            )
        count = int(about["edits"])
        editor.claim(about, folder)
        device = editor.vlm.device
        return cls(editor, {name: value.to(device) for name, value in values.items()}, count)


class WeightsPatch(ValuesPatch):
    """``values`` are new parameters in full, by their names in the Hugging Face model."""

    FILE = "weights.safetensors"

    @classmethod
    def load(cls, editor: Editor, folder: Path) -> Self:
        """See :meth:`ValuesPatch.load`. The parameters have the names of this model, with or
        without PEFT around it.
        """
        held, model = super().load(editor, folder), editor.vlm.model
        return cls(
            editor,
            {named_here(model, name): value for name, value in held.values.items()},
            held.count,
        )

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return self.values


class DirectEditor(Editor):
    """Moves values of its own by gradient descent, edit after edit, each from where the one before
    left them.

    A method says where the values start and how they are moved. They are float32, whatever the
    model's type. Single edits cannot be taken back.
    """

    patch_class: ClassVar[type[WeightsPatch]] = WeightsPatch
    """What the values make."""

    @abstractmethod
    def start(self) -> dict[str, Tensor]:
        """The values before any edit, by the names that the patch knows."""

    @abstractmethod
    def optimizer(self, values: Sequence[Tensor]) -> Optimizer:
        """A new optimiser, for one edit."""

    @contextmanager
    def answering(self, query: Query) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
        """The logits (n, V) that predict the answer, under the patch on the model then, and its n
        tokens (n,).
        """
        batch = self.vlm.encode([query], eos=self.config.eos)
        positions = batch.answer_positions()
        with self.vlm.vision_once():
            yield lambda: self.vlm.logits(batch)[positions], batch.labels.roll(-1, 1)[positions]

    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> WeightsPatch:
        """See :meth:`Editor.edit`. Each edit goes on from the values that the one before left."""
        self.begin(queries, patch)
        held = self.patch_class(self, {}, 0) if patch is None else patch
        assert isinstance(held, WeightsPatch)
        if not queries:
            return held
        values = {name: held.values.get(name, value) for name, value in self.start().items()}
        values = {
            name: value.detach().float().clone().requires_grad_() for name, value in values.items()
        }
        for query in queries:
            self.fit(values, query)
        return self.patch_class(
            self, {name: value.detach() for name, value in values.items()}, len(held) + len(queries)
        )

    @torch.enable_grad()
    def fit(self, values: dict[str, Tensor], query: Query) -> None:
        """Move ``values``, in place, until the model answers ``query`` with its target.

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

    def load_patch(self, folder: Path) -> WeightsPatch:
        """See :meth:`Editor.load_patch`."""
        return self.patch_class.load(self, folder)
