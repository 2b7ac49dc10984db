"""The training loop of all editors that have networks to train.

The backbone is frozen, so everything below the edit layer is computed once
(:meth:`TrainableEditor.prepare`) and cached beside the checkpoints; a step then costs only the
layers above. Without the cache each step computes what its own batch needs.

The library accelerate manages devices and processes (``accelerate launch -m liveedit train …``):
each process takes its share of every batch. The batch of a step depends only on the seed and the
step, so a resumed run continues exactly as the uninterrupted one would have.

Ctrl-C stops a run where nothing is lost: after a slice of hidden states, or after a step, with a
checkpoint. A kill loses the current slice, or the steps since the last checkpoint.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from liveedit.artifacts import locked
from liveedit.data.images import check_readable
from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.examples import Example
from liveedit.errors import BadInput
from liveedit.models.input_checks import check_cases
from liveedit.registry import nearest
from liveedit.train.checkpoints import GOES_ON, resume, save_checkpoint
from liveedit.train.config import Progress, TrainConfig, check_config
from liveedit.train.hidden_states import prepared
from liveedit.train.interrupts import deferred_interrupt
from liveedit.train.ownership import check_owner, identity, take_folder
from liveedit.types import Case, expanded

__all__ = ["train"]

LOG_EVERY = 10
"""Steps between two entries of the TensorBoard log."""


def train(
    editor: TrainableEditor,
    cases: Sequence[Case],
    config: TrainConfig,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Train ``editor`` on ``cases``; save it in ``folder``, which is returned.

    ``folder`` also gets the checkpoints, the hidden states and the TensorBoard log. If it already
    holds a checkpoint of the same run, training resumes from it.

    Raises :class:`BadInput` for settings out of range, fewer cases than one batch takes, a folder
    with unrelated files, damaged files, unreadable images, texts that the model cannot encode, and
    as soon as a loss or weight is not finite; :class:`Mismatch` if ``folder`` holds a training with
    another configuration or model; :class:`StorageError` where a disk fails and while another
    process trains in ``folder``; ``KeyboardInterrupt`` with a message that says where the run
    stopped.
    """
    check_config(config, "training.")
    folder = expanded(folder)
    if len(cases) < config.batch_size:
        raise BadInput(
            f"{len(cases)} cases are fewer than one batch of {config.batch_size}: "
            "lower batch_size or add cases"
        )
    _check_metrics(editor, cases)
    accelerator = _accelerator(folder)
    set_seed(config.seed)
    if accelerator.is_main_process:
        check_readable(_images(cases))
        check_cases(editor.vlm, cases)
    run = identity(editor, cases, config)
    check_owner(folder, run)  # before a lock is left there
    with locked(folder, patience=0) if accelerator.is_main_process else nullcontext():
        with accelerator.main_process_first():
            take_folder(folder, run)
        done = _run_steps(editor, cases, config, folder, accelerator, progress or _silent)
        if done < config.steps:
            raise KeyboardInterrupt(f"stopped at step {done:,} of {config.steps:,}; {GOES_ON}")
        _check_weights(editor, config.steps)
        if accelerator.is_main_process:
            editor.save_pretrained(folder)
    return folder


def _images(cases: Sequence[Case]) -> Iterator[Any]:
    """All images of the cases."""
    for case in cases:
        for query in case.queries:
            yield from query.images


def _silent(stage: str, done: int, total: int, losses: dict[str, float]) -> None:
    """Report nothing."""


def _accelerator(folder: Path) -> Accelerator:
    """The devices and processes of the run, with a TensorBoard log in ``folder``.

    Networks may have parameters without a gradient, such as the pooler of a pretrained encoder.
    """
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(log_with="tensorboard", project_dir=str(folder), kwargs_handlers=[unused])


def _check_metrics(editor: TrainableEditor, cases: Sequence[Case]) -> None:
    """Raise :class:`BadInput` for a metric in the editor's settings that no case probes.

    Metrics among the method's defaults may be missing.
    """
    probed: set[str] = set()
    for case in cases:
        probed.update(probe.metric for probe in case.probes)
    for name in ("generality", "locality"):
        defaults = getattr(type(editor).Config(), name, ())
        for metric in getattr(editor.config, name, ()):
            if metric not in probed and metric not in defaults:
                advice = nearest(metric, sorted(probed))
                raise BadInput(f"{editor.name}.{name}: no case probes '{metric}': {advice}")


def _run_steps(
    editor: TrainableEditor,
    cases: Sequence[Case],
    config: TrainConfig,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> int:
    """Train from the last checkpoint to the end or an interrupt; return the steps done."""
    with deferred_interrupt() as interrupted:
        examples: list[Example] | None = None
        if config.cache:
            examples = prepared(editor, cases, folder, accelerator, interrupted, progress)
        loss = _Loss(editor)
        optimizer = torch.optim.Adam(_parameter_groups(editor), lr=config.lr, fused=True)
        scheduler = LambdaLR(optimizer, lambda step: rate(step, config))
        loss, optimizer = accelerator.prepare(loss, optimizer)
        done = resume(accelerator, folder, scheduler)
        if done > config.steps:
            raise BadInput(
                f"{folder} is trained for {done:,} steps already: "
                "give more steps, or another folder"
            )
        accelerator.init_trackers("log")
        stopped = False
        while done < config.steps and not stopped:
            chosen, generator = _batch(len(cases), config, done, accelerator)
            if examples is None:
                batch = editor.prepare([cases[number] for number in chosen])
            else:
                batch = [examples[number] for number in chosen]
            total, terms = loss(batch, generator)
            _update(accelerator, loss, optimizer, total, config.clip)
            scheduler.step()
            done += 1
            _report(accelerator, done, config, total, terms, progress)
            if _in_any(accelerator, not bool(total.isfinite())):
                raise _diverged(f"the loss of step {done:,}")
            stopped = done < config.steps and _in_any(accelerator, interrupted())
            if done % config.checkpoint_every == 0 or done == config.steps or stopped:
                _check_weights(editor, done)
                save_checkpoint(accelerator, folder, done, scheduler)
        accelerator.end_training()
    return done


class _Loss(nn.Module):
    """The editor's loss as a module, so that accelerate can wrap its networks."""

    def __init__(self, editor: TrainableEditor) -> None:
        super().__init__()
        self.networks = editor.networks()
        self.loss = editor.loss

    def forward(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(examples, generator)


def _batch(
    count: int, config: TrainConfig, step: int, accelerator: Accelerator
) -> tuple[list[int], torch.Generator]:
    """The cases that this process takes in a step, and the generator of its random draws."""
    number = config.seed * 1_000_003 + step
    order = torch.Generator().manual_seed(number)
    chosen = torch.randperm(count, generator=order)[: config.batch_size].tolist()
    with accelerator.split_between_processes(chosen) as share:
        own = list(share)
    return own, torch.Generator().manual_seed(number * 64 + accelerator.process_index)


def _update(
    accelerator: Accelerator,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    total: Tensor,
    clip: float | None,
) -> None:
    """Take one step down the gradient of ``total``."""
    optimizer.zero_grad()
    accelerator.backward(total)
    if clip is not None:
        accelerator.clip_grad_norm_(loss.parameters(), clip)
    optimizer.step()


def _parameter_groups(editor: TrainableEditor) -> list[dict[str, Any]]:
    """The parameters of the networks; those with a learning rate of their own in groups apart."""
    networks = editor.networks()
    groups: list[dict[str, Any]] = []
    apart: set[int] = set()
    for name, lr in editor.rates().items():
        parameters = list(networks[name].parameters())
        groups.append({"params": parameters, "lr": lr})
        apart.update(map(id, parameters))
    others = [tensor for tensor in networks.parameters() if id(tensor) not in apart]
    return [{"params": others}, *groups]


def rate(step: int, config: TrainConfig) -> float:
    """The factor of the learning rate at ``step``, counted from 0."""
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "step":
        return warmup * (0.1 if step >= config.cut else 1.0)
    return warmup * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * step / config.steps))))


def _report(
    accelerator: Accelerator,
    step: int,
    config: TrainConfig,
    total: Tensor,
    terms: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Report the losses of a step, and log those of every tenth."""
    losses = {"loss": float(total.detach())}
    losses |= {name: float(term.detach()) for name, term in terms.items()}
    if step % LOG_EVERY == 0:
        accelerator.log(losses, step=step)
    if accelerator.is_main_process:
        progress("training", step, config.steps, losses)


def _in_any(accelerator: Accelerator, here: bool) -> bool:
    """Whether something is true in any process; all have to call this together."""
    if accelerator.num_processes == 1:
        return here
    return bool(accelerator.reduce(torch.tensor(int(here), device=accelerator.device)))


def _check_weights(editor: TrainableEditor, step: int) -> None:
    """Raise :class:`BadInput` where a weight, the same in all processes, is not finite."""
    if not all(bool(weight.isfinite().all()) for weight in editor.networks().parameters()):
        raise _diverged(f"a weight after step {step:,}")


def _diverged(what: str) -> BadInput:
    """The error for a training that has diverged."""
    return BadInput(f"{what} is not finite: lower lr or set clip, and train in a new folder")
