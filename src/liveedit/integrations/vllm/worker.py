"""Workers whose model has the edits of a store; :mod:`liveedit.integrations.vllm.config` chooses
them in place of the platform's own.
"""

from typing import Any

from liveedit.integrations.vllm.opening import open_edits

__all__ = ["EditedWorker"]


class EditedWorker:
    """Comes before the class of a worker."""

    model_runner: Any
    vllm_config: Any

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and open its edits."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.edits = open_edits(self.model_runner, self.vllm_config)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a step, and tell the edits of it."""
        self.edits.begin(scheduler_output)
        try:
            return super().execute_model(scheduler_output)  # type: ignore[misc]
        finally:
            self.edits.end()
