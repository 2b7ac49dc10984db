"""Base class of the configurations of models that transformers does not have."""

from typing import Any

from transformers import PreTrainedConfig

__all__ = ["Composite"]


class Composite(PreTrainedConfig):  # type: ignore[misc]
    """Configuration that holds others; ``sub_configs`` gives their names and classes."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the configurations from the dictionaries in ``config.json``.

        Not every version of transformers does this by itself.
        """
        for name, kind in self.sub_configs.items():
            settings = getattr(self, name)
            if not isinstance(settings, kind):
                setattr(self, name, kind(**(settings or {})))
        super().__post_init__(**kwargs)
