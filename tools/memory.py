"""Check what `dioscuri describe` tells of memory, or print the tables of docs/memory.md and docs/scaling.md.

    python tools/memory.py check [CFG ...] [--backend torch|jax]    predicted beside measured peaks
    python tools/memory.py table [CFG ...]                          what fits on 24 and 80 GB
    python tools/memory.py scaling [CFG ...]                        what 8, 64 and 256 devices hold and send

All print Markdown. `check` runs every configuration, or those named of `CHECKED`, in the benchmark's process
on this CPU, and ends with code 1 if a prediction is further than 15 % from the measured peak.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

from dioscuri.errors import UserError, run_command
from dioscuri.library.describe import options_of
from dioscuri.places import PROGRAMS
from dioscuri.plans.footprint import read_memory
from dioscuri.plans.mesh import MeshShape
from dioscuri.run.sizes import format_bytes
from dioscuri.run.steps import Step, described

TOLERANCE = 0.15
CHECKED = (
    ("egs/hierarchical_vae/cifar10_C1.cfg", 4, ()),
    ("egs/hierarchical_vae/imagenet32_compact.cfg", 4, ()),
    ("egs/vdvae/cifar10.cfg", 4, ()),
    ("egs/vqgan/cifar10.cfg", 16, ()),
    ("egs/maskgit/imagenet256_halton_tiny.cfg", 4, ("data.tokenizer_path=",)),
    ("egs/sundae/mnist10k.cfg", 32, ()),
    ("egs/classifier/cifar10.cfg", 256, ()),
)
"""Configurations, batches and options whose prediction is compared with the benchmark."""


MEMORIES = ("24GB", "80GB")
PUBLISHED = (
    "hierarchical_vae/*_*.cfg",
    "vdvae/[!p]*.cfg",
    "metroplex/prog*.cfg",
    "vqgan/*[0-9]_*.cfg",
    "maskgit/[aci]*.cfg",
    "maskgit/m[aeu]*.cfg",
    "sundae/*_4*.cfg",
)
"""Patterns of the configurations in the table."""

SCALED = (
    "hierarchical_vae/ffhq256_5bits_baseline",
    "vdvae/imagenet64",
    "metroplex/prog0_width1024_depth24_res128",
    "vqgan/imagenet256_maskgit",
    "sundae/imagenet_3143_4",
    "maskgit/imagenet256_maskgit",
    "maskgit/imagenet384_halton_large",
    "maskgit/muse512",
    "maskgit/muse256_3b",
)
"""A large configuration of each family, and those of text models."""

MESHES = ((1, 8), (8, 8), (1, 64), (32, 8), (1, 256))
"""Copies of the state, and devices of each."""


def main(arguments: list[str]) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(prog="memory.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("check", "table", "scaling"))
    parser.add_argument("configurations", nargs="*", type=Path, help=".cfg files (default: all)")
    parser.add_argument("--backend", choices=("torch", "jax"), default="torch")
    options = parser.parse_args(arguments)
    if options.what == "check":
        sys.exit(check(options.configurations, options.backend))
    egs = PROGRAMS / "egs"
    if options.what == "scaling":
        scaling(options.configurations or [egs / f"{name}.cfg" for name in SCALED], options.backend)
        return
    published = (path for pattern in PUBLISHED for path in sorted(egs.glob(pattern)))
    table(options.configurations or list(published), options.backend)


def check(configurations: Sequence[Path], backend: str) -> int:
    """Print predicted and measured peaks; 1 if one is too far off."""
    chosen = [row for row in CHECKED if not configurations or Path(row[0]) in configurations]
    _print("configuration", "batch", "predicted, MB", "measured, MB", "ratio", head=True)
    worst = 0.0
    for cfg, batch, options in chosen:
        words = ("run.num_gpus=0", *options)
        sized = (cfg, *words, "--batch", str(batch))
        told = json.loads(_output("-m", "dioscuri", "describe", *sized, "--twin", backend, "--json"))
        predicted = told["step"]["device_bytes"] / 1e6
        run = ("--cfg", cfg, "--backend", backend, "--batch", str(batch), "--steps", "1")
        measured = json.loads(_output("tools/benchmark.py", *run, *words))["peak_memory_mb"]
        worst = max(worst, abs(predicted / measured - 1))
        name = " ".join((_name(Path(cfg)), *options))
        _print(name, batch, f"{predicted:,.0f}", f"{measured:,.0f}", f"{predicted / measured:.2f}")
    return int(worst > TOLERANCE)


def table(configurations: Sequence[Path], backend: str) -> None:
    """Print what each configuration takes, and the largest batches that fit, plain and recomputed."""
    fits = [f"{memory}: fits; largest" for memory in MEMORIES]
    columns = ("parameters", "batch", "held", "an example", "peak")
    _print("configuration", *columns, *fits, head=True)
    for cfg in configurations:
        hparams, _ = options_of(cfg, ("run.num_gpus=1",))
        hparams = replace(hparams, train=replace(hparams.train, accumulation_steps=1))
        batch = max(1, hparams.train.batch_size // max(1, options_of(cfg, ())[0].run.num_gpus))
        steps = [_step(hparams, backend, recomputed) for recomputed in (False, True)]
        taken = steps[0].footprint(batch)
        parameters = f"{described(hparams).parameters / 1e6:,.1f} M"
        sizes = (taken.state, taken.activations // batch, taken.peak)
        cells = []
        for memory in MEMORIES:
            there = read_memory(memory, "memory")
            plain, recomputed = (step.largest_batch(there) for step in steps)
            cells.append(f"{'yes' if taken.peak <= there else 'no'}; {plain:,}, {recomputed:,}")
        _print(_name(cfg), parameters, batch, *map(format_bytes, sizes), *cells)


def scaling(configurations: Sequence[Path], backend: str) -> None:
    """Print what each device of a mesh holds and sends in a step, with `train.shard=parameters`, and the
    largest batch."""
    columns = ("parameters", "mesh", "batch", "held", "peak", "sent in a copy", "sent between copies")
    _print("configuration", *columns, "largest batch on 80 GB", head=True)
    for cfg in configurations:
        given, _ = options_of(cfg, ())
        a_device = max(1, given.train.batch_size // max(1, given.run.num_gpus))
        run, train = replace(given.run, num_gpus=1), given.train
        train = replace(train, accumulation_steps=1, shard="parameters", shard_devices=0)
        step = Step(replace(given, run=run, train=train), backend)
        parameters = f"{described(step.hparams).parameters / 1e6:,.1f} M"
        for data, shard in MESHES:
            step.mesh = MeshShape(data=data, shard=shard)
            taken = step.footprint(a_device * step.devices)
            inside = sum(one.sent for one in taken.collectives if one.name != "all-reduce")
            between = sum(one.sent for one in taken.collectives if one.name == "all-reduce")
            sizes = map(format_bytes, (taken.state, taken.peak, inside, between))
            largest = step.largest_batch(read_memory("80GB", "memory"))
            _print(_name(cfg), parameters, step.mesh, a_device * step.devices, *sizes, f"{largest:,}")


def _step(hparams: Any, backend: str, recomputed: bool) -> Step:
    train = replace(hparams.train, checkpoint_activations=recomputed)
    return Step(replace(hparams, train=train), backend)


def _name(cfg: Path) -> str:
    return f"{cfg.parent.name}/{cfg.stem}"


def _print(*cells: object, head: bool = False) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if head:
        print(f"|{'---|' * len(cells)}", flush=True)


def _output(*words: str) -> str:
    """The last line, or the JSON object, that a program of the project prints."""
    run = subprocess.run([sys.executable, *words], cwd=PROGRAMS, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"{' '.join(words)}: {run.stderr.strip().splitlines()[-1]}")
    return run.stdout


if __name__ == "__main__":
    run_command(main)
