"""Training of editors: one loop for all that have networks to train.

The backbone is frozen, so everything below the edit layer is computed once
(:meth:`TrainableEditor.prepare`) and kept on disk beside the checkpoints; a step then costs the
layers above it only. Where that is too much to keep, each step computes what its own batch needs
(``cache``). Devices and processes are accelerate's (``accelerate launch -m liveedit train …``):
each process takes its share of every batch. The batch of a step depends on the seed and the step
alone, so a run that was stopped goes on exactly as it would have.

Ctrl-C stops a run where nothing is lost: behind a slice of hidden states, or behind a step, with a
checkpoint. A kill loses the slice in hand, or the steps since the last checkpoint.
"""

import json
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from reprlib import repr as shown
from types import FrameType
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from annotated_types import Interval
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from liveedit.artifacts import check_folder, draft, file_sum, locked, sync, write_file, writing
from liveedit.data.images import check_readable
from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.examples import Example
from liveedit.errors import BadInput, Mismatch, StorageError, shortage
from liveedit.models.input_checks import check_cases
from liveedit.registry import nearest
from liveedit.runinfo import digest
from liveedit.settings import Count, Index, Positive, Seed, check
from liveedit.types import Case, expanded

__all__ = ["TrainConfig", "TrainFile", "check_config", "train"]

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Told the stage ("hidden states" or "training"), how much of it is done, how much there is, and
the losses by name.
"""

SLICE = 64
"""Cases whose hidden states are computed, and kept in a file, between two reports of progress."""
IDENTITY = "training.json"
"""The file that says whose a folder is."""
STEP = re.compile(r"step-([0-9]{7}|[1-9][0-9]{7,})")
"""The name of a whole checkpoint."""
SUMS = "sums.json"
"""The file of a checkpoint with the SHA-256 of each of its others; one from before there was this
lacks it.
"""
GOES_ON = "the same command goes on from here"


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast. ``schedule`` "step" is the released one: the rate falls to a tenth at
    ``cut`` steps.

    ``warmup`` steps, at most all, lead up to the rate. ``clip`` is the largest norm of a gradient,
    ``None`` for any. ``cache`` keeps the hidden states of all cases, 4 bytes for each of D numbers
    a token, in memory and on disk.
    """

    steps: Count = 20_000
    batch_size: Count = 8
    lr: Positive = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    cut: Index = 10_000
    warmup: Index = 0
    clip: Positive | None = None
    seed: Seed = 0
    checkpoint_every: Count = 500
    cache: bool = True


Draws = Annotated[int, Interval(ge=1, le=100)]
"""With how many seeds cases are drawn: all are in memory, some 150 MB a seed of emblem."""


@dataclass(frozen=True)
class TrainFile:
    """What a file of settings holds: the editor's, the training's, and with how many seeds its
    cases are drawn.
    """

    editor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    cases: Draws = 1


class _Loss(nn.Module):
    """The editor's loss as a module, so that accelerate can wrap its networks for several
    processes.
    """

    def __init__(self, editor: TrainableEditor) -> None:
        super().__init__()
        self.networks = editor.networks()
        self._editor = [
            editor
        ]  # in a list: the editor is not a module, and its VLM must not be registered

    def forward(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._editor[0].loss(examples, generator)


def check_config(config: TrainConfig, where: str) -> None:
    """Raise :class:`BadInput`, ``where`` before a name, for settings out of range, or that do not
    go together.
    """
    check(config, where)
    if config.warmup > config.steps:
        raise BadInput(
            f"{where}warmup is {shown(config.warmup)}: it should be at most steps, which is {config.steps}"
        )


def train(
    editor: TrainableEditor,
    cases: Sequence[Case],
    config: TrainConfig,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Train ``editor`` on ``cases``; the finished editor is left in ``folder``, which is returned.

    ``folder`` also gets the checkpoints, the hidden states and the TensorBoard log. If it holds
    some of the same run, training goes on from there. Raises :class:`Mismatch` if they belong to
    another configuration or model, :class:`BadInput` for settings out of range, fewer cases than
    one batch takes, a folder that holds other things, damaged files, images that cannot be read,
    texts that the model cannot read, and once a loss or weight is no finite number;
    :class:`StorageError` where a disk fails and while another process trains in ``folder``. An
    interrupt, ``KeyboardInterrupt``, says where the run stopped.
    """
    check_config(config, "training.")
    folder = expanded(folder)
    tell = progress or (lambda *_: None)
    if len(cases) < config.batch_size:
        raise BadInput(
            f"{len(cases)} cases are fewer than one batch of {config.batch_size}: lower batch_size or add cases"
        )
    _check_metrics(editor, cases)
    unread = DistributedDataParallelKwargs(
        find_unused_parameters=True
    )  # such as the pooler of a pretrained encoder
    accelerator = Accelerator(
        log_with="tensorboard", project_dir=str(folder), kwargs_handlers=[unread]
    )
    set_seed(config.seed)
    if accelerator.is_main_process:
        check_readable(image for case in cases for query in case.queries for image in query.images)
        check_cases(editor.vlm, cases)
    identity = _identity(editor, cases, config)
    _check_claim(folder, identity)  # before a lock is left there
    with locked(folder, patience=0) if accelerator.is_main_process else nullcontext():
        with accelerator.main_process_first():
            _claim(folder, identity)
        done = _steps(editor, cases, config, folder, accelerator, tell)
        if done < config.steps:
            raise KeyboardInterrupt(f"stopped at step {done:,} of {config.steps:,}; {GOES_ON}")
        _check_weights(editor, config.steps)
        if accelerator.is_main_process:
            editor.save_pretrained(folder)
    return folder


def _check_metrics(editor: TrainableEditor, cases: Sequence[Case]) -> None:
    """Raise :class:`BadInput` for a metric in the settings that no case asks, but for those of the
    method itself.
    """
    asked = {probe.metric for case in cases for probe in case.probes}
    for name in ("generality", "locality"):
        own = getattr(type(editor).Config(), name, ())
        for metric in getattr(editor.config, name, ()):
            if metric not in asked and metric not in own:
                advice = nearest(metric, sorted(asked))
                raise BadInput(f"{editor.name}.{name} has '{metric}', which no case asks: {advice}")


def _steps(
    editor: TrainableEditor,
    cases: Sequence[Case],
    config: TrainConfig,
    folder: Path,
    accelerator: Accelerator,
    tell: Progress,
) -> int:
    """Go on with the training in ``folder`` to its end or an interrupt; how many steps are done
    then.
    """
    with _interrupts() as interrupted:
        examples = (
            _prepared(editor, cases, folder, accelerator, interrupted, tell) if config.cache else []
        )
        loss = _Loss(editor)
        optimizer = torch.optim.Adam(_groups(editor), lr=config.lr, fused=True)
        scheduler = LambdaLR(optimizer, lambda step: _rate(step, config))
        loss, optimizer = accelerator.prepare(loss, optimizer)
        first = _resume(accelerator, folder, scheduler)
        if first > config.steps:
            raise BadInput(
                f"{folder} is trained for {first:,} steps already: give more steps, or another folder"
            )
        accelerator.init_trackers("log")
        done = first
        for step in range(first, config.steps):
            chosen, generator = _batch(len(cases), config, step, accelerator)
            batch = (
                [examples[i] for i in chosen]
                if config.cache
                else editor.prepare([cases[i] for i in chosen])
            )
            total, terms = loss(batch, generator)
            optimizer.zero_grad()
            accelerator.backward(total)
            if config.clip is not None:
                accelerator.clip_grad_norm_(loss.parameters(), config.clip)
            optimizer.step()
            scheduler.step()
            done = step + 1
            _report(accelerator, done, config, total, terms, tell)
            if _any(accelerator, not bool(total.isfinite())):
                raise _diverged(f"the loss of step {done:,}")
            stopped = done < config.steps and _any(accelerator, interrupted())
            if done % config.checkpoint_every == 0 or done == config.steps or stopped:
                _check_weights(editor, done)
                _checkpoint(accelerator, folder, done, scheduler)
            if stopped:
                break
        accelerator.end_training()
    return done


def _check_weights(editor: TrainableEditor, step: int) -> None:
    """Raise :class:`BadInput` where a weight, which all processes have alike, is no finite number
    after ``step``.
    """
    if not all(bool(weight.isfinite().all()) for weight in editor.networks().parameters()):
        raise _diverged(f"a weight after step {step:,}")


def _diverged(what: str) -> BadInput:
    """The error for a training from which nothing can come any more."""
    return BadInput(f"{what} is no finite number: lower lr or set clip, and train in a new folder")


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C only makes what is yielded true; the second interrupts at once, as
    ever.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield lambda: False
        return
    before, heard = signal.getsignal(signal.SIGINT), threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        heard.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hear)
    try:
        yield heard.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _any(accelerator: Accelerator, here: bool) -> bool:
    """Whether something is so in any process, which all have to ask together."""
    if accelerator.num_processes == 1:
        return here
    return bool(accelerator.reduce(torch.tensor(int(here), device=accelerator.device)))


def _identity(
    editor: TrainableEditor, cases: Sequence[Case], config: TrainConfig
) -> dict[str, Any]:
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


def _check_claim(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse another's folder."""
    check_folder(folder, IDENTITY)
    file = folder / IDENTITY
    if not file.exists():
        return
    try:
        stored = dict(json.loads(file.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise BadInput(f"{file} is damaged: choose a new folder") from None
    now = json.loads(json.dumps(identity))
    if different := sorted(key for key in {*stored, *now} if stored.get(key) != now.get(key)):
        raise Mismatch(
            f"{folder} holds a training with another {', '.join(different)}: choose a new folder"
        )


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Write down whose folder this is, or refuse another's."""
    file = folder / IDENTITY
    if not file.exists():
        write_file(file, json.dumps(identity, indent=1).encode())
    _check_claim(folder, identity)


def _prepared(
    editor: TrainableEditor,
    cases: Sequence[Case],
    folder: Path,
    accelerator: Accelerator,
    interrupted: Callable[[], bool],
    tell: Progress,
) -> list[Example]:
    """The cases with their hidden states, computed once and kept in ``folder``, a file for each
    slice of cases.

    Beside each stands its SHA-256, without which it is not taken for whole.
    """
    examples: list[Example] = []
    with accelerator.main_process_first():
        for start in range(0, len(cases), SLICE):
            file = folder / "hidden" / f"{start:07d}.pt"
            some = _kept(file)
            if some is None:
                tell("hidden states", start, len(cases), {})
                some = editor.prepare(cases[start : start + SLICE])
                with _saving(file), draft(file) as part, part.open("wb") as written:
                    torch.save(some, written)
                with _saving(file):
                    write_file(_sum_of(file), file_sum(file).encode())
                tell("hidden states", start + len(some), len(cases), {})
            examples += some
            if interrupted():
                kept = f"the hidden states of {len(examples):,} of {len(cases):,} cases"
                raise KeyboardInterrupt(f"stopped with {kept}; {GOES_ON}")
    return examples


def _kept(file: Path) -> list[Example] | None:
    """The hidden states in a file, if there is one and it is whole."""
    try:
        if _sum_of(file).read_text(encoding="utf-8") != file_sum(file):
            return None
        return list(torch.load(file, weights_only=False))
    except Exception as error:  # whatever pickle makes of a damaged one
        if shortage(error):
            raise
        return None


def _sum_of(file: Path) -> Path:
    """Where the SHA-256 of a file of hidden states is."""
    return file.with_suffix(".sha256")


@contextmanager
def _saving(target: Path) -> Iterator[None]:
    """Turn what goes wrong in writing ``target`` into one line. Raises :class:`StorageError`."""
    try:
        with writing(target, f"mend that, {GOES_ON}"):
            yield
    except RuntimeError as error:  # what torch makes of a full disk
        if shortage(error):
            raise
        reason = str(error).partition("\n")[0]
        raise StorageError(f"cannot write {target} ({reason}): mend that, {GOES_ON}") from error


def _batch(
    count: int, config: TrainConfig, step: int, accelerator: Accelerator
) -> tuple[list[int], torch.Generator]:
    """Which of the cases this process takes in a step, and the generator of its draws."""
    order = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randperm(count, generator=order)[: config.batch_size].tolist()
    with accelerator.split_between_processes(chosen) as share:
        mine = list(share)
    draws = torch.Generator().manual_seed(
        (config.seed * 1_000_003 + step) * 64 + accelerator.process_index
    )
    return mine, draws


def _groups(editor: TrainableEditor) -> list[dict[str, Any]]:
    """The parameters of the networks, those with a learning rate of their own apart."""
    networks, rates = editor.networks(), editor.rates()
    groups: list[dict[str, Any]] = [
        {"params": list(networks[name].parameters()), "lr": rates[name]} for name in rates
    ]
    apart = {id(tensor) for group in groups for tensor in group["params"]}
    return [
        {"params": [tensor for tensor in networks.parameters() if id(tensor) not in apart]},
        *groups,
    ]


def _rate(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate at ``step``."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "step":
        return warm * (0.1 if step >= config.cut else 1.0)
    return warm * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * step / config.steps))))


def _checkpoint(accelerator: Accelerator, folder: Path, step: int, scheduler: LambdaLR) -> None:
    """Save everything that the run needs to go on; the one before is removed when the new one is
    whole.

    All processes write to one folder, by a name that they know without asking each other.
    """
    target = folder / "checkpoints" / f"step-{step:07d}"
    part = target.with_suffix(".part")
    with _saving(target):
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            torch.save(scheduler.state_dict(), part / "schedule.pt")
            files = [file for file in part.rglob("*") if file.is_file() and file != part / SUMS]
            sums = {file.relative_to(part).as_posix(): file_sum(file) for file in files}
            (part / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            for file in [*part.iterdir(), part]:
                sync(file)
            part.rename(target)
            sync(target.parent)
            for old in _checkpoints(folder)[:-1]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in ``folder``, in the order of their steps; other names are somebody
    else's copies.
    """
    return sorted(
        (path for path in (folder / "checkpoints").glob("step-*") if STEP.fullmatch(path.name)),
        key=_step,
    )


def _step(checkpoint: Path) -> int:
    """The step that a checkpoint is of."""
    return int(checkpoint.name.removeprefix("step-"))


def _resume(accelerator: Accelerator, folder: Path, scheduler: LambdaLR) -> int:
    """Load the last checkpoint; the step to begin with. Raises :class:`BadInput` if it is damaged."""
    found = _checkpoints(folder)
    if not found:
        return 0
    try:
        _check_sums(found[-1])
        accelerator.load_state(str(found[-1]))
        scheduler.load_state_dict(torch.load(found[-1] / "schedule.pt", weights_only=True))
        return _step(found[-1])
    except Exception as error:  # whatever the readers of its files make of it
        if shortage(error):
            raise
        raise BadInput(
            f"{found[-1]} is damaged: remove it, and the same command begins again"
        ) from error


def _check_sums(checkpoint: Path) -> None:
    """Raise ``ValueError`` where a file of a checkpoint is not what was saved."""
    if (checkpoint / SUMS).exists():
        sums = json.loads((checkpoint / SUMS).read_text(encoding="utf-8"))
        if changed := [
            name for name, saved in sums.items() if file_sum(checkpoint / name) != saved
        ]:
            raise ValueError(f"{', '.join(changed)} changed")


def _report(
    accelerator: Accelerator,
    step: int,
    config: TrainConfig,
    total: Tensor,
    terms: dict[str, Tensor],
    tell: Progress,
) -> None:
    """Log every tenth step, and tell about each."""
    values = {
        "loss": float(total.detach()),
        **{name: float(term.detach()) for name, term in terms.items()},
    }
    if step % 10 == 0:
        accelerator.log(values, step=step)
    if accelerator.is_main_process:
        tell("training", step, config.steps, values)
