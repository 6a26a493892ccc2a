"""What the engine asks of every family beside its model, draws, loss and modes: the usual answers."""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Hashable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jax import Array


class FamilyMethods:
    """A family's adapter answers otherwise where it has phases, balances, buffers or frozen tensors."""

    def phase(self, scalars: Mapping[str, float]) -> Hashable:
        """What the schedules' values switch in the loss; every phase is compiled on its own."""
        return None

    def turns(self, phase: Hashable) -> tuple[Hashable, ...]:
        """Phases of the updates of one step; each sees the parameters that the one before it left."""
        return (phase,)

    def trains(self, turn: Hashable, name: str) -> bool:
        """Whether a turn updates a parameter. Asked only where a step has several."""
        return True

    def laps(self, phase: Hashable) -> tuple[Hashable, ...]:
        """Phases of the losses of one step, whose gradients are added one after the other, so that memory
        holds the intermediates of one."""
        return (phase,)

    def carried(self, terms: Any) -> dict[str, Array]:
        """What a lap hands on to the next one, beside the batch's tensors."""
        return {}

    def balances(self, scalars: Mapping[str, float]) -> bool:
        """Whether the loss uses statistics of the global batch at these schedules' values."""
        return False

    def statistics(self, terms: Any) -> Any:
        """Those statistics, from the terms of the loss; not differentiated."""
        return None

    def frozen(self) -> dict[str, np.ndarray]:
        """Tensors that are neither trained nor saved with the run, such as those of a tokenizer."""
        return {}

    def initial_buffers(self, seed: int) -> dict[str, np.ndarray]:
        """Tensors that a step changes without a gradient: `loss` takes them and gives new ones."""
        return {}

    def assigned(self, buffers: Mapping[str, Array], parameters: Mapping[str, Array]) -> dict[str, Array]:
        """Parameters, in canonical shapes, that follow from the buffers, and from what they are, after a
        step. Asked only where there are buffers."""
        return {}


def methods_of(hparams: Any) -> Any:
    """The tensor methods of the run's family: those that its module calls `FAMILY`."""
    module: Any = import_module(f"jax_impl.families.{hparams.run.family}")
    return module.FAMILY(hparams)
