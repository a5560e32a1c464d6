"""The training loop of both stages: AdamW with warm-up and cosine, EMA, log, and exact resumption."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import MiniError
from .files import replacing
from .progress import Bar

BatchLoss = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""(step, generator) -> {"loss": what is minimised, other names: what is logged beside it}, all scalars.

Everything random in a step is drawn from the generator (on the CPU), so that its state is all a checkpoint needs.
"""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains. A checkpoint continues only under the plan it began with."""

    steps: int
    lr: float
    warmup: int
    ema: float
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    save_every: int = 500
    log_every: int = 25

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine down to 1 % of `lr`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class InterruptedTrainingError(MiniError):
    """Training was asked to stop; it saved its state and continues when started again."""


def train(module: nn.Module, batch_loss: BatchLoss, plan: Plan, folder: Path) -> None:
    """Train `module` to the end of `plan` and leave the averaged (EMA) weights in it.

    `folder`/state.pt is the checkpoint (weights, EMA, optimiser, generator, step), replaced whole every
    `plan.save_every` steps, at the end and on SIGTERM; `folder`/log.jsonl has one line every `plan.log_every` steps.
    Started again with the same plan it continues with exactly the steps it would have done.

    Raises InterruptedTrainingError after a SIGTERM, MiniError when the checkpoint is of another plan or the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(module, plan)
    state.resume(folder)
    module.train()
    with _terminated() as stopped, Bar(folder.name, plan.steps, state.step) as bar:
        began, first = time.monotonic(), state.step
        while state.step < plan.steps:
            losses = state.advance(batch_loss)
            if state.step % plan.log_every == 0 or state.step == plan.steps:
                figures = {name: float(value.detach()) for name, value in losses.items()}
                per_step = (time.monotonic() - began) / (state.step - first)
                _log(folder, {"step": state.step, **figures, "seconds_per_step": round(per_step, 4)})
                if not math.isfinite(figures["loss"]):
                    raise MiniError(f"{folder.name}: the loss at step {state.step} is {figures['loss']}.")
                bar.show(state.step, f"loss {figures['loss']:.4f}")
            if state.step % plan.save_every == 0 or state.step == plan.steps or stopped():
                state.save(folder)
            if stopped() and state.step < plan.steps:
                raise InterruptedTrainingError(
                    f"{folder.name}: stopped at step {state.step}; run again to continue."
                )
    module.load_state_dict(state.ema)
    module.eval()


class _State:
    """All that changes while training."""

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module = module
        self.plan = plan
        self.step = 0
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.ema = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def advance(self, batch_loss: BatchLoss) -> Mapping[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.lr_at(self.step)
        losses = batch_loss(self.step, self.generator)
        torch.autograd.backward(losses["loss"])
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._average()
        self.step += 1
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        live = self.module.state_dict()
        floating = [name for name, value in self.ema.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.ema[name] for name in floating], [live[name] for name in floating], 1 - decay
        )

    def save(self, folder: Path) -> None:
        with replacing(folder / "state.pt") as path:
            torch.save(
                {
                    "plan": asdict(self.plan),
                    "step": self.step,
                    "module": self.module.state_dict(),
                    "ema": self.ema,
                    "optimiser": self.optimiser.state_dict(),
                    "generator": self.generator.get_state(),
                },
                path,
            )

    def resume(self, folder: Path) -> None:
        saved = read_checkpoint(folder)
        if saved is None:
            (folder / "log.jsonl").unlink(missing_ok=True)
            return
        if saved["plan"] != asdict(self.plan):
            raise MiniError(
                f"{folder / 'state.pt'} was trained under another plan ({saved['plan']}, "
                f"now {asdict(self.plan)}). Choose another --out, or delete that folder."
            )
        self.step = saved["step"]
        self.module.load_state_dict(saved["module"])
        self.ema = {name: value.to(self.ema[name].device) for name, value in saved["ema"].items()}
        self.optimiser.load_state_dict(saved["optimiser"])
        self.generator.set_state(saved["generator"])
        _cut_log(folder, self.step)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return what `train` last saved in `folder`, on the CPU, or None when there is nothing yet."""
    path = folder / "state.pt"
    if not path.exists():
        return None
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def _log(folder: Path, entry: Mapping[str, float]) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(entry) + "\n")


def _cut_log(folder: Path, step: int) -> None:
    """Drop the log lines of steps after the checkpoint: they are about to be done again."""
    path = folder / "log.jsonl"
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        with replacing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines))


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGTERM or SIGINT came since the block began."""
    came: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda got, _frame: came.append(got)) for number in signals]
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the lines that `train` logged in `folder`."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
