"""Configures an engine for edits, before it starts.

    chunked prefill   off: a router reads the image and the question of a prompt in one step
    prefix caching    off: the keys and values of a prompt depend on the edits that act on it
    model runner      V1, whose order of requests is read
    worker            one whose model has the edits
    shutdown          no worker is killed before it has written which edits fired

vLLM asks :data:`MODELS_CONFIG_MAP` for a hook by the model's architecture; one that is there
already is called, too.
"""

import logging
import os
from typing import Any

from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform

import liveedit.models.families.efficientnet_lite  # noqa: F401  # so that its config is read
from liveedit.errors import UnsupportedModel
from liveedit.integrations.vllm.sites import OP

__all__ = ["ARCHITECTURES", "prepare"]

LOG = logging.getLogger("vllm.liveedit")
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
GRACE = 10
"""Seconds that a worker has for its end, at least; running answers end in them, too."""
WORKERS = "liveedit.integrations.vllm"
ARCHITECTURES = (
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
)
"""Architectures that name their language model, whose layers return the stream in two parts."""


def prepare() -> None:
    """Let engines of the known architectures have edits."""
    os.environ.setdefault(RUNNER, "0")
    ModelRegistry.register_model(ARCHITECTURES[0], f"{WORKERS}.llava:Llava")
    for name in ARCHITECTURES:
        before = MODELS_CONFIG_MAP.get(name)
        if not (isinstance(before, type) and issubclass(before, Configured)):
            bases = (Configured, before or VerifyAndUpdateConfig)
            MODELS_CONFIG_MAP[name] = type(f"Edited{name}", bases, {})


class Configured(VerifyAndUpdateConfig):  # type: ignore[misc]
    """The hook; comes before the one that was there."""

    @classmethod
    def verify_and_update_config(cls, vllm_config: Any) -> None:
        """Configure an engine. Raises :class:`UnsupportedModel` for what edits cannot do with."""
        own = super().verify_and_update_config
        own(vllm_config)
        configure(vllm_config)


def configure(vllm_config: Any) -> None:
    """See the module. Raises :class:`UnsupportedModel` for what edits cannot do with."""
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise UnsupportedModel("edits need all layers in one worker: --pipeline-parallel-size 1")
    if vllm_config.speculative_config is not None:
        raise UnsupportedModel("edits do not act on drafts: leave out --speculative-config")
    if os.environ.get(RUNNER) == "1":
        raise UnsupportedModel(f"edits need vLLM's model runner V1: leave {RUNNER} unset")
    scheduler = vllm_config.scheduler_config
    scheduler.enable_chunked_prefill = False
    scheduler.max_num_batched_tokens = max(
        scheduler.max_num_batched_tokens, vllm_config.model_config.max_model_len
    )
    vllm_config.cache_config.enable_prefix_caching = False
    vllm_config.shutdown_timeout = max(vllm_config.shutdown_timeout, GRACE)
    compilation = vllm_config.compilation_config
    if compilation.splitting_ops is None:
        compilation.splitting_ops = [*compilation._attention_ops, OP]
    where = "cpu" if current_platform.is_cpu() else "gpu"
    vllm_config.parallel_config.worker_cls = f"{WORKERS}.{where}_worker.Worker"
    LOG.info("edits of a store: chunked prefill and prefix caching are off, model runner V1")
