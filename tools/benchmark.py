"""Time a training step, or a method of a family such as generate, encode or decode, and print one JSON line.

    python tools/benchmark.py --cfg F --backend torch|jax --what train|generate|... --batch B --steps N
                              [--precision P] [--compile] [--cache program|new]
                              [section.option=value ...]

Pictures and tokens are random, so no data set is needed. Training and inference are measured in separate
processes, with the engines, caches, allocator and threads of the programs.

- `engine_seconds`, `first_call_seconds`: making the engine with its weights; the first call, compilation
  included, as far as the cache does not save it. `--cache new` starts with empty caches.
- `ms_per_step`: the median of later calls. `limit_ms`: how long its convolutions and matrix products would
  take at the rate of one product in the same process, in the step's precision (2048^3 on a CPU, 8192^3 on an
  accelerator); PyTorch counts them in its twin. `share_of_limit` is their ratio.
- `unit_ms`: one float32 product of 2048^3, for comparisons between machines.
- `peak_memory_mb` is that of the process, or of the accelerator; `started_memory_mb` what was in use before
  the engine was made.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import count
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

from dioscuri import hparams as hparams_module
from dioscuri.errors import run_command
from tests.support.loads import Load

UNIT_SIZE = 2048
ACCELERATOR_SIZE = 8192


@dataclass(frozen=True)
class Timing:
    """Seconds of the first call, which includes compilation, and the median of later ones."""

    first: float
    median: float


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print."""
    options = parse(arguments)
    with TemporaryDirectory() if options.cache == "new" else nullcontext() as caches:
        if caches:
            os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
            os.environ["DIOSCURI_CACHE"] = caches
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(caches) / "inductor")
        print(json.dumps(measure(options)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measurements of a twin at the work and batch size of the command line."""
    overrides = [f"train.compile={options.compile}", f"train.batch_size={options.batch}", *options.overrides]
    if options.precision:
        overrides.append(f"train.precision={options.precision}")
    hparams = hparams_module.load(options.cfg, overrides)
    load, accelerator = Load(hparams, options.batch), hparams.run.num_gpus > 0
    import_module(f"{options.backend}_impl.engine")
    started, begin = peak_memory(options.backend, accelerator=False), time.perf_counter()
    engine = open_engine(options.backend, hparams, options.what)
    engine_seconds = time.perf_counter() - begin
    if options.what == "train":
        timing = time_training(engine, load, accelerator, options.steps)
    else:
        timing = time_calls(lambda: load.call(engine, options.what), options.steps)
    memory = peak_memory(options.backend, accelerator=accelerator)
    products = {"torch": torch_products, "jax": jax_products}[options.backend]
    unit, rate = products(hparams.train.precision, accelerator)
    flops = options.flops or count_flops(options.cfg, overrides, options.what)
    limit = options.batch * flops / rate
    return vars(options) | {"precision": hparams.train.precision} | {
        "parameters": sum(map(prod, engine.family.parameter_shapes().values())),
        "devices": engine.device_count,
        "engine_seconds": round(engine_seconds, 2),
        "first_call_seconds": round(timing.first, 4),
        "ms_per_step": round(1e3 * timing.median, 3),
        "images_per_second": round(options.batch / timing.median, 2),
        "peak_memory_mb": round(memory),
        "started_memory_mb": 0 if accelerator else round(started),
        "flops": flops,
        "gflops": round(options.batch * flops / timing.median / 1e9, 2),
        "limit_ms": round(1e3 * limit, 3),
        "share_of_limit": round(limit / timing.median, 4),
        "product_gflops": round(rate / 1e9, 1),
        "unit_ms": round(1e3 * unit, 3),
        "units_per_step": round(timing.median / unit, 3),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "settings": settings(options.backend),
        "versions": {name: version(name) for name in ("torch", "jax")},
    }  # fmt: skip


def open_engine(backend: str, hparams: Any, what: str) -> Any:
    """The engine that a program would use for this work, with initial weights."""
    if what == "train":
        engine = import_module(f"{backend}_impl.engine").Engine(hparams)
        engine.initialise()
    else:
        engine = import_module(f"{backend}_impl.inference_engine").InferenceEngine(hparams)
        engine.state_from_numpy({"ema": engine.family.initial_parameters(hparams.run.seed)})
    return engine


def settings(backend: str) -> dict[str, Any]:
    """What, beside versions, decides a program's speed."""
    if backend == "torch":
        import torch  # only the measured framework is loaded

        threads = torch.get_num_threads()
    else:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XLA_FLAGS")
    return {"threads": threads} | {name: os.environ[name] for name in names if name in os.environ}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--backend", choices=("torch", "jax"), required=True)
    parser.add_argument("--what", default="train", help="train, or what the family can do, as generate")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=("float32", "bf16", "bfloat16", "float64"))
    parser.add_argument(
        "--compile", action="store_true", help="torch only: compile the network and the update"
    )
    parser.add_argument(
        "--cache",
        choices=("program", "new"),
        default="program",
        help="of compiled programs: the usual, or none",
    )
    parser.add_argument("--flops", type=int, help="operations per picture, if they are known")
    parser.add_argument("overrides", nargs="*", help="section.option=value")
    options = parser.parse_args(arguments)
    if options.precision == "bf16":
        options.precision = "bfloat16"
    return options


def time_training(engine: Any, load: Load, accelerator: bool, steps: int) -> Timing:
    """Time training steps, on an accelerator ten at a time, since the host runs ahead."""
    row = 10 if accelerator else 1
    numbers = count()

    def call() -> None:
        for _ in range(row):
            load.train(engine, next(numbers))
        engine.fetch_metrics()

    timing = time_calls(call, max(1, steps // row))
    return Timing(first=timing.first - (row - 1) / row * timing.median, median=timing.median / row)


def count_flops(cfg: str, overrides: list[str], what: str) -> int:
    """Operations of convolutions and matrix products per picture, in training forward and backward."""
    import torch  # torch is not loaded while JAX is measured

    from torch_impl.footprint import FlopCounter

    small = ["train.batch_size=1", "train.compile=False", "train.accumulation_steps=1"]
    if not torch.cuda.is_available():
        small.append("run.num_gpus=0")
    hparams = hparams_module.load(cfg, [*overrides, *small, "train.precision=float32"])
    load, engine = Load(hparams, 1), open_engine("torch", hparams, what)
    with FlopCounter() as counter:
        if what == "train":
            load.train(engine, 0)
        else:
            load.call(engine, what)
    return counter.total


def time_calls(call: Callable[[], None], n: int) -> Timing:
    """Time the first call and, after one more to warm up, the median of `n`."""
    seconds = []
    for _ in range(n + 2):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return Timing(first=seconds[0], median=median(seconds[2:]))


def peak_memory(backend: str, *, accelerator: bool) -> float:
    """Peak memory so far in MB (10^6 bytes), of the accelerator or else of this process."""
    if not accelerator:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    if backend == "torch":
        import torch  # only the measured framework is loaded

        return torch.cuda.max_memory_allocated() / 1e6
    import jax

    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6


def torch_products(precision: str, accelerator: bool) -> tuple[float, float]:
    """Seconds of the unit product, and operations per second of a product in the given precision."""
    import torch

    device = "cuda" if accelerator else "cpu"

    def seconds(size: int, dtype: str) -> float:
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
        wait = torch.cuda.synchronize if accelerator else lambda: None
        return time_calls(lambda: (a @ b, wait()), 10).median

    return product_rates(seconds, precision, accelerator)


def jax_products(precision: str, accelerator: bool) -> tuple[float, float]:
    """The same in JAX."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)

    def seconds(size: int, dtype: str) -> float:
        a, b = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
        return time_calls(lambda: product(a, b).block_until_ready(), 10).median

    return product_rates(seconds, precision, accelerator)


def product_rates(
    seconds: Callable[[int, str], float], precision: str, accelerator: bool
) -> tuple[float, float]:
    """Unit time and rate from a function that times a product of a size and precision."""
    size = ACCELERATOR_SIZE if accelerator else UNIT_SIZE
    return seconds(UNIT_SIZE, "float32"), 2 * size**3 / seconds(size, precision)


if __name__ == "__main__":
    run_command(main)
