"""Training of editors: one loop for all that have networks to train.

The backbone is frozen, so everything below the edit layer is computed once (:meth:`TrainableEditor.prepare`) and kept
on disk beside the checkpoints; a step then costs the layers above it only. Where that is too much to keep, each step
computes what its own batch needs (``cache``). Devices and processes are accelerate's
(``accelerate launch -m liveedit train …``): each process takes its share of every batch. The batch of a step depends
on the seed and the step alone, so a run that was stopped goes on exactly as it would have.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from liveedit.data.images import check_readable
from liveedit.editors.base import Example, TrainableEditor
from liveedit.errors import BadInput, Mismatch
from liveedit.runinfo import digest
from liveedit.types import Case

__all__ = ["TrainConfig", "train"]

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Told the stage ("hidden states" or "training"), how much of it is done, how much there is, and the losses by name."""

SLICE = 64
"""Cases whose hidden states are computed between two reports of progress."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast. ``schedule`` "step" is the released one: the rate falls to a tenth at ``cut`` steps.

    ``cache`` keeps the hidden states of all cases, 4 bytes for each of D numbers a token, in memory and on disk.
    """

    steps: int = 20_000
    batch_size: int = 8
    lr: float = 1e-4
    schedule: str = "step"
    cut: int = 10_000
    warmup: int = 0
    clip: float | None = None
    seed: int = 0
    checkpoint_every: int = 500
    cache: bool = True


class _Loss(nn.Module):
    """The editor's loss as a module, so that accelerate can wrap its networks for several processes."""

    def __init__(self, editor: TrainableEditor) -> None:
        super().__init__()
        self.networks = editor.networks()
        self._editor = [editor]  # in a list: the editor is not a module, and its VLM must not be registered

    def forward(self, examples: Sequence[Example], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self._editor[0].loss(examples, generator)


def train(
    editor: TrainableEditor, cases: Sequence[Case], config: TrainConfig, folder: Path, progress: Progress | None = None
) -> Path:
    """Train ``editor`` on ``cases``; the finished editor is left in ``folder``, which is returned.

    ``folder`` also gets the checkpoints, the cached hidden states and the TensorBoard log. If it holds a checkpoint of
    the same run, training goes on from there. Raises :class:`Mismatch` if the checkpoint belongs to another
    configuration or model, :class:`BadInput` if there are fewer cases than one batch takes or an image cannot be read.
    """
    if len(cases) < config.batch_size:
        raise BadInput(f"{len(cases)} cases are fewer than one batch of {config.batch_size}: lower --batch-size")
    unread = DistributedDataParallelKwargs(find_unused_parameters=True)  # such as the pooler of a pretrained encoder
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(folder), kwargs_handlers=[unread])
    set_seed(config.seed)
    if accelerator.is_main_process:
        check_readable(image for case in cases for query in case.queries for image in query.images)
    _claim(folder, _identity(editor, cases, config), accelerator)
    examples = _prepared(editor, cases, folder, accelerator, progress) if config.cache else []
    loss = _Loss(editor)
    optimizer = torch.optim.Adam(_groups(editor), lr=config.lr, fused=True)
    scheduler = LambdaLR(optimizer, lambda step: _rate(step, config))
    loss, optimizer = accelerator.prepare(loss, optimizer)
    first = _resume(accelerator, folder, scheduler)
    accelerator.init_trackers("log")
    for step in range(first, config.steps):
        chosen, generator = _batch(len(cases), config, step, accelerator)
        batch = [examples[i] for i in chosen] if config.cache else editor.prepare([cases[i] for i in chosen])
        total, terms = loss(batch, generator)
        optimizer.zero_grad()
        accelerator.backward(total)
        if config.clip is not None:
            accelerator.clip_grad_norm_(loss.parameters(), config.clip)
        optimizer.step()
        scheduler.step()
        _report(accelerator, step + 1, config, total, terms, progress)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            _checkpoint(accelerator, folder, step + 1, scheduler)
    accelerator.end_training()
    if accelerator.is_main_process:
        editor.save_pretrained(folder)
    return folder


def _identity(editor: TrainableEditor, cases: Sequence[Case], config: TrainConfig) -> dict[str, Any]:
    """What must agree for a run to be continued: everything but its length."""
    settings = asdict(config) | {
        "editor": editor.name,
        "config": asdict(editor.config),
        "model": editor.vlm.fingerprint,
        "quantised": editor.vlm.quantised,
        "prompt_format": editor.vlm.prompt_format,
    }
    if config.schedule == "step":
        settings.pop("steps")
    settings.pop("checkpoint_every")
    settings.pop("cache")
    return settings | {"cases": digest(cases)}


def _claim(folder: Path, identity: dict[str, Any], accelerator: Accelerator) -> None:
    """Write down whose folder this is, or refuse another run's."""
    file = folder / "training.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(identity))
        different = sorted(key for key in {*stored, *now} if stored.get(key) != now.get(key))
        if different:
            raise Mismatch(f"{folder} holds a training with another {', '.join(different)}: choose a new folder")
    elif accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    accelerator.wait_for_everyone()


def _prepared(
    editor: TrainableEditor, cases: Sequence[Case], folder: Path, accelerator: Accelerator, progress: Progress | None
) -> Sequence[Example]:
    """The cases with their hidden states, computed once and kept in ``folder``."""
    file = folder / "cache.pt"
    if not file.exists() and accelerator.is_main_process:
        examples: list[Example] = []
        for start in range(0, len(cases), SLICE):
            examples += editor.prepare(cases[start : start + SLICE])
            if progress is not None:
                progress("hidden states", len(examples), len(cases), {})
        torch.save(examples, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    accelerator.wait_for_everyone()
    return list(torch.load(file, weights_only=False))


def _batch(count: int, config: TrainConfig, step: int, accelerator: Accelerator) -> tuple[list[int], torch.Generator]:
    """Which of the cases this process takes in a step, and the generator of its draws."""
    order = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randperm(count, generator=order)[: config.batch_size].tolist()
    with accelerator.split_between_processes(chosen) as share:
        mine = list(share)
    draws = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + accelerator.process_index)
    return mine, draws


def _groups(editor: TrainableEditor) -> list[dict[str, Any]]:
    """The parameters of the networks, those with a learning rate of their own apart."""
    networks, rates = editor.networks(), editor.rates()
    groups: list[dict[str, Any]] = [{"params": list(networks[name].parameters()), "lr": rates[name]} for name in rates]
    apart = {id(tensor) for group in groups for tensor in group["params"]}
    return [{"params": [tensor for tensor in networks.parameters() if id(tensor) not in apart]}, *groups]


def _rate(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate at ``step``."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "step":
        return warm * (0.1 if step >= config.cut else 1.0)
    return warm * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * step / config.steps))))


def _checkpoint(accelerator: Accelerator, folder: Path, step: int, scheduler: LambdaLR) -> None:
    """Save everything that the run needs to go on; the one before is removed when the new one is whole."""
    target = folder / "checkpoints" / f"step-{step:07d}"
    accelerator.save_state(str(target.with_suffix(".part")))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        torch.save(scheduler.state_dict(), target.with_suffix(".part") / "schedule.pt")
        target.with_suffix(".part").rename(target)
        for old in sorted(target.parent.glob("step-*[0-9]"))[:-1]:
            for file in sorted(old.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            old.rmdir()
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, folder: Path, scheduler: LambdaLR) -> int:
    """Load the last whole checkpoint; the step to begin with."""
    found = sorted((folder / "checkpoints").glob("step-*[0-9]"))
    if not found:
        return 0
    accelerator.load_state(str(found[-1]))
    scheduler.load_state_dict(torch.load(found[-1] / "schedule.pt", weights_only=True))
    return int(found[-1].name.removeprefix("step-"))


def _report(
    accelerator: Accelerator,
    step: int,
    config: TrainConfig,
    total: Tensor,
    terms: dict[str, Tensor],
    progress: Progress | None,
) -> None:
    """Log every tenth step, and tell ``progress`` about each."""
    values = {"loss": float(total.detach()), **{name: float(term.detach()) for name, term in terms.items()}}
    if step % 10 == 0:
        accelerator.log(values, step=step)
    if progress is not None and accelerator.is_main_process:
        progress("training", step, config.steps, values)
