"""The optimiser of a stage: AdamW with a learning rate for what is new and one for what the teacher had."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.recipe import Optimizer, Stage

GROUPS = ("new", "inherited")
"""The two parameter groups; the recipe has a learning rate for each."""


class Optimization:
    """An optimiser and its learning rates, which depend on the step alone.

    Args:
        parameters: the trained weights by name.
        groups: the same weights, by :data:`GROUPS`.
        stage: the stage's settings.

    Attributes:
        optimizer: the torch optimiser.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        groups: Mapping[str, Sequence[nn.Parameter]],
        stage: Stage,
    ) -> None:
        settings = stage.optimizer
        rates = {"new": settings.new, "inherited": settings.inherited}
        self.optimizer = _make(
            [
                {"params": list(groups[name]), "lr": rates[name], "name": name}
                for name in GROUPS
                if groups[name]
            ],
            settings,
        )
        self._parameters = parameters
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._order = [names[id(each)] for group in self.optimizer.param_groups for each in group["params"]]
        self._schedule = _schedule(self.optimizer, stage)

    def rates(self) -> dict[str, float]:
        """The learning rate of each group now."""
        return {group["name"]: group["lr"] for group in self.optimizer.param_groups}

    def set_rates(self, number: int) -> None:
        """Set the learning rates of step ``number``, from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._schedule(number)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimiser's state: tensors by ``NAME/KEY``, and the entries that are plain numbers.

        Not by ``state_dict``, in which bitsandbytes wraps some tensors once more; unwrapped ones it loads as well.
        """
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                kind = tensors if isinstance(value, Tensor) else numbers
                kind[f"{name}/{key}"] = value
        return tensors, numbers

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        places = {name: index for index, name in enumerate(self._order)}
        state: dict[int, dict[str, Any]] = {}
        for path, value in {**tensors, **numbers}.items():
            name, _, key = path.rpartition("/")
            state.setdefault(places[name], {})[key] = value
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )


def require_optimizer(settings: Optimizer) -> None:
    """Refuse an optimiser whose package is missing.

    Raises:
        DistillationError: it is.
    """
    if settings.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise DistillationError(
            "optimizer adamw8bit needs the package bitsandbytes; install it with pip install 'linzoo[8bit]', or"
            " choose adamw"
        )


def _make(groups: list[dict[str, Any]], settings: Optimizer) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw8bit":
        require_optimizer(settings)
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, **options)
        return optimizer
    device = groups[0]["params"][0].device.type
    # not fused, it would hold temporary copies of all weights at once
    return torch.optim.AdamW(groups, fused=device in ("cpu", "cuda"), **options)


def _schedule(optimizer: torch.optim.Optimizer, stage: Stage) -> Any:
    """The factor on the learning rates as a function of the step."""
    from diffusers.optimization import get_scheduler

    settings = stage.optimizer
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=settings.warmup, num_training_steps=stage.steps
    )
    return scheduler.lr_lambdas[0]
