"""The worker on NVIDIA's and AMD's GPUs."""

from vllm.v1.worker.gpu_worker import Worker as GPUWorker

from liveedit.integrations.vllm.worker import EditedWorker

__all__ = ["Worker"]


class Worker(EditedWorker, GPUWorker):  # type: ignore[misc]
    """A worker on a GPU whose model has edits."""
