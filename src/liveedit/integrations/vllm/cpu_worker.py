"""The worker on CPUs."""

from vllm.v1.worker.cpu_worker import CPUWorker

from liveedit.integrations.vllm.worker import EditedWorker

__all__ = ["Worker"]


class Worker(EditedWorker, CPUWorker):  # type: ignore[misc]
    """A worker on CPUs whose model has edits."""
