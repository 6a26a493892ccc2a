"""The training step of a run as a twin sees it beforehand: what it holds, and whether it fits."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.plans.description import Description, picture_rows
from dioscuri.plans.footprint import Footprint, largest_batch, machine_bytes, resident_bytes
from dioscuri.plans.mesh import check_mesh, mesh_of
from dioscuri.registry import family_module, has_module
from dioscuri.run.sizes import format_bytes, held_bytes
from dioscuri.twins import twin_module

LARGE = 4
"""A step on a CPU is followed beforehand if what a run holds throughout takes 1 / LARGE of the memory."""


def described(hparams: Any) -> Description:
    """The family's description or, if it has none, its parameter shapes and rows of pictures."""
    family = hparams.run.family
    if not has_module(family, "description"):
        shapes = family_of(hparams).network_shapes(hparams)
        return Description(shapes=shapes, facts={}, layers={}, rows=picture_rows(hparams.data))
    description: Description = family_module(family, "description").describe(hparams)
    return description


class Step:
    """The training step of a run on one of its devices, as a twin sees it."""

    def __init__(self, hparams: Any, twin: str, devices: int | None = None) -> None:
        self.mesh = mesh_of(hparams.train, devices or max(1, hparams.run.num_gpus))
        self.parts: int = hparams.train.accumulation_steps
        self.hparams, self.notes = _of_one_device(hparams)
        self.process = 0 if hparams.run.num_gpus else _program_bytes(twin)
        module = twin_module(twin, "footprint")
        self.every_batch: bool = module.EVERY_BATCH
        description = described(self.hparams)
        self.notes += description.notes
        check_mesh(self.mesh, description.shapes.values())
        self._follow = module.follow_step(
            self.hparams, description.rows, accelerator=hparams.run.num_gpus > 0
        )

    @property
    def devices(self) -> int:
        """Number of devices that share the batch."""
        return self.mesh.devices

    def check_batch(self, batch: int) -> int:
        """The batch, if the devices can share it."""
        if batch % (self.devices * self.parts):
            raise UserError(
                f"batch {batch} must be a multiple of devices x accumulation_steps, "
                f"{self.devices} x {self.parts}"
            )
        return batch

    def footprint(self, batch: int) -> Footprint:
        """What a step on a global batch takes on one device."""
        taken: Footprint = self._follow(batch // self.devices, self.mesh)
        return taken

    def largest_batch(self, memory: int) -> int:
        """The largest global batch with which a device needs no more memory."""
        unit = self.devices * self.parts

        def peak(n: int) -> int:
            return self.footprint(n * unit).peak + self.process

        if self.every_batch:
            return unit * largest_batch(peak, memory)
        low, high = peak(2), peak(8)  # a compilation takes too long to try more
        return unit * largest_batch(lambda n: low + (high - low) * (n - 2) // 6, memory)


@cache
def _program_bytes(twin: str) -> int:
    """What a process of the twin takes on a CPU beside its tensors: what this one takes at first."""
    twin_module(twin, "footprint")
    return resident_bytes()


def _of_one_device(hparams: Any) -> tuple[Any, list[str]]:
    """Options of a run on one CPU without compilation, whose tokenizer is left out if it is not there."""
    notes = []
    run = replace(hparams.run, num_gpus=0)
    data, train = hparams.data, replace(hparams.train, compile=False)
    tokenizer = getattr(data, "tokenizer_path", "")
    if tokenizer and not Path(tokenizer).is_dir():
        notes.append(f"without the tokenizer {Path(tokenizer).name}, which is not there: a step on tokens")
        data = replace(data, tokenizer_path="")
    if getattr(data, "null_text_path", "") and not Path(data.null_text_path).is_file():
        data = replace(data, null_text_path="")
    if getattr(data, "text_encoder_path", ""):
        data = replace(data, text_encoder_path="")
    return replace(hparams, run=run, data=data, train=train), notes


def check_step(hparams: Any, twin: str) -> None:
    """Raise a `UserError` that says how many bytes are lacking if this machine is too small for a training
    step on its CPU. Only large models are followed, since that takes seconds, in JAX a compilation."""
    there = machine_bytes()
    if hparams.run.num_gpus or not there or LARGE * held_bytes(hparams) < there:
        return
    step = Step(hparams, twin)
    asked = step.footprint(step.check_batch(hparams.train.batch_size)).peak + step.process
    if asked > there:
        raise UserError(
            f"a training step of this model takes {format_bytes(asked)}, but this machine has "
            f"{format_bytes(there)} of memory: {asked - there:,} bytes are lacking; 'dioscuri describe' "
            "tells what fits"
        )
