"""EditedModel: a Hugging Face model that gives edited answers wherever code expects the model."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NoReturn, Self

from wrapt import ObjectProxy

from liveedit.errors import BadInput

__all__ = ["EditedModel"]

FLUENT = ("to", "cuda", "cpu", "eval", "train", "requires_grad_")
"""Methods of a module that return the module itself."""


class EditedModel(ObjectProxy):  # type: ignore[misc]
    """A Hugging Face model, of which each call is made within a context.

    All else is the model's own: its class for ``isinstance``, config, weights and attributes.
    Parts of the model that are called by themselves are not edited.

    Arguments:
        model: The model.
        answering: Makes the context of a call.
    """

    def __init__(self, model: Any, answering: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__(model)
        self._self_answering = answering

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        with self._self_answering():
            return self.__wrapped__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate text; all of it with the edits that are in force when it begins."""
        with self._self_answering():
            return self.__wrapped__.generate(*args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the edited weights. Raises :class:`BadInput` for edits that are not in them."""
        with self._self_answering():
            return self.__wrapped__.save_pretrained(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return partial(self._fluent, found) if name in FLUENT else found

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise BadInput("an edited model cannot be copied: copy its EditableVLM")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise BadInput("an edited model cannot be pickled: save the edits with EditableVLM.save")

    def _fluent(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Call a method of the model that returns the model, and return this."""
        method(*args, **kwargs)
        return self
