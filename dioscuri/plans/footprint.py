"""What a training step takes, and the largest batch that fits: told before anything is allocated."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dioscuri.errors import UserError
from dioscuri.plans.mesh import MeshShape

_UNITS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """An exchange of a step among `devices`, in all its calls: `name` as in MPI, of `what`; bytes of the
    whole, of which each device gets all or one share."""

    name: str
    what: str
    times: int
    n_bytes: int
    devices: int

    @property
    def sent(self) -> int:
        """Bytes that a device sends in a ring: once around, or twice to sum and to spread."""
        rounds = 2 if self.name == "all-reduce" else 1
        return rounds * self.times * self.n_bytes * (self.devices - 1) // self.devices


def collectives(
    shard: str, mesh: MeshShape, passes: int, *, gathered: int, gradient: int, reduced: int
) -> tuple[Collective, ...]:
    """The exchanges of a step by `train.shard`: bytes of the parameters as they are gathered and of their
    gradient, and how often a step of `passes` backward passes exchanges a gradient that every device gets
    whole."""
    if mesh.devices == 1:
        return ()
    if mesh.shard == 1:
        whole = Collective(
            name="all-reduce", what="gradients", times=reduced, n_bytes=gradient, devices=mesh.data
        )
        return (whole,)
    times = passes * (2 if shard == "parameters" else 1)
    gather = Collective(
        name="all-gather", what="parameters", times=times, n_bytes=gathered, devices=mesh.shard
    )
    scatter = Collective(
        name="reduce-scatter", what="gradients", times=passes, n_bytes=gradient, devices=mesh.shard
    )
    between = Collective(
        name="all-reduce",
        what="gradient's share",
        times=passes,
        n_bytes=gradient // mesh.shard,
        devices=mesh.data,
    )
    return (gather, scatter, *([between] if mesh.data > 1 else []))


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A training step on one device, in bytes and operations."""

    rows: int
    """Rows of the batch on the device."""
    state: int
    """Held between steps: parameters, average, moments, gradient, buffers and frozen weights."""
    activations: int
    """Held from the forward pass to the backward pass."""
    start: int
    """The most that is held at once while the run starts."""
    step: int
    """The most that is held at once in a step."""
    surplus: int
    """What libraries and the allocator take beside the tensors, at the peak; measured on a CPU."""
    flops: int
    """Of convolutions, matrix products and attention."""
    collectives: tuple["Collective", ...] = ()
    """What the devices exchange."""

    @property
    def peak(self) -> int:
        """The most that is taken at once."""
        return max(self.start, self.step) + self.surplus


def largest_batch(peak: Callable[[int], int], memory: int, most: int = 2**20) -> int:
    """A number n of at most `most` with `peak(n) <= memory`, at most 2 % below the largest; 0 if there is
    none.

    `peak` does not decrease and is close to a straight line, so that secants need few calls.
    """
    peak = cache(peak)
    if peak(1) > memory:
        return 0
    before, fits, exceeds = 1, 1, most + 1
    guess = min(8, most)
    while (width := exceeds - fits) > _step(fits):
        if peak(guess) <= memory:
            before, fits = fits, guess
        else:
            exceeds = guess
        other = before if exceeds > most else exceeds
        rise = (peak(other) - peak(fits)) / (other - fits) if other != fits else 0
        further = int((memory - peak(fits)) / rise) if rise else 8 * fits
        guess = min(max(fits + further, fits + _step(fits)), exceeds - 1, 16 * fits)
        if exceeds <= most and exceeds - fits > width // 2:  # a bend between the two: halve
            guess = (fits + exceeds) // 2
    return fits


def _step(n: int) -> int:
    return max(1, n // 50)


def read_memory(text: object, where: str) -> int:
    """Bytes of e.g. '24GB' (24 x 1000^3) or '24GiB' (24 x 1024^3); a `UserError` for anything else."""
    match = _MEMORY.fullmatch(str(text).strip())
    if match is None or not float(match[1]):
        raise UserError(
            f"{where} '{text}' is not an amount of memory: give a number and its unit, such as 24GB"
        )
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _UNITS[prefix.replace("K", "k")])


def resident_bytes(*, at_most: bool = False) -> int:
    """Memory of this process now, or the most it has had; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    name = "VmHWM" if at_most else "VmRSS"
    sizes = re.findall(rf"^{name}:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else []
    return int(sizes[0]) * 1024 if sizes else 0


def machine_bytes() -> int:
    """Memory of this machine, or that of its control group if it has a limit; 0 where neither is told."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min([*known, *([int(text)] if text.isdigit() else [])], default=0)
