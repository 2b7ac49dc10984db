"""WeightsPatch: new values for parameters of the model, what methods that change weights make."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.models.patch import Patch

if TYPE_CHECKING:
    from liveedit.editors.base import Editor

__all__ = ["WeightsPatch"]


class WeightsPatch(Patch):
    """``count`` edits written into ``values``: new values in full, by the name of the parameter in the HF model."""

    FILE = "weights.safetensors"

    def __init__(self, editor: "Editor", values: Mapping[str, Tensor], count: int) -> None:
        self.editor, self.values, self.count = editor, dict(values), count

    def __len__(self) -> int:
        return self.count

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return self.values

    @property
    def nbytes(self) -> int:
        """Bytes that the values take up, however many edits they hold."""
        return sum(value.nbytes for value in self.values.values())

    def save(self, folder: Path) -> None:
        """Write the values, and whose they are; whole or not at all. Raises :class:`StorageError` where that fails."""
        folder, part = Path(folder), Path(folder) / f"{self.FILE}.part"
        about = {"editor": self.editor.fingerprint, "model": self.editor.vlm.fingerprint, "edits": str(len(self))}
        values = {name: value.detach().cpu().contiguous() for name, value in self.values.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(values, part, about)
            part.replace(folder / self.FILE)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot write {folder / self.FILE}: {error}") from error

    @classmethod
    def load(cls, editor: "Editor", folder: Path) -> Self:
        """What :meth:`save` wrote, each value where the model has its parameter.

        Raises :class:`BadInput` for a file that is missing or broken, :class:`Mismatch` for one of another editor or
        another model.
        """
        file = Path(folder) / cls.FILE
        if not file.is_file():
            raise BadInput(f"there is no {cls.FILE} in {folder}: give the folder that a patch was saved to")
        try:
            with safe_open(file, framework="pt") as opened:
                about = dict(opened.metadata() or {})
                values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            count = int(about["edits"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BadInput(f"{file} cannot be read ({error}): it is cut off or no patch") from error
        if about.get("model") != editor.vlm.fingerprint:
            raise Mismatch(f"the edits in {folder} were made on another model: load that model, or make them again")
        if about.get("editor") != editor.fingerprint:
            raise Mismatch(f"the edits in {folder} were made by another editor: load that editor, or make them again")
        model = editor.vlm.model
        return cls(editor, {name: value.to(model.get_parameter(name).device) for name, value in values.items()}, count)
