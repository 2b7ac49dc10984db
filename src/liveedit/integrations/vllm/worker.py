"""Workers whose model has the edits of a store; :mod:`liveedit.integrations.vllm.config` chooses
them in place of the platform's own.
"""

from typing import Any

from liveedit.integrations.vllm.opening import Opened, open_edits

__all__ = ["EditedWorker"]


class EditedWorker:
    """Comes before the class of a worker."""

    model_runner: Any
    vllm_config: Any
    opened: Opened | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and open its edits."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.opened = open_edits(self.model_runner, self.vllm_config)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a step, and tell the edits of it."""
        assert self.opened is not None
        edits = self.opened.edits
        edits.begin(scheduler_output)
        try:
            return super().execute_model(scheduler_output)  # type: ignore[misc]
        finally:
            edits.end()

    def liveedit_report(self, id: str) -> dict[str, Any] | None:
        """The fields that an answer gets (:meth:`Reports.of`); called by the API's server."""
        assert self.opened is not None
        return self.opened.edits.reports.of(id)

    def shutdown(self) -> None:
        """Write the hits that wait, and shut down."""
        if self.opened is not None:
            self.opened.close()
        super().shutdown()  # type: ignore[misc]
