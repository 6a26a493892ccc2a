"""Compare the twins on one card in float32: three training steps, and every method whose noise can be given,
of each family's smallest model. Prints one JSON line a family.

    python tools/gpu/parity.py [--cpu] [FAMILY ...]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from dioscuri.engine import split_arguments
from dioscuri.errors import run_command
from dioscuri.face.recorded import drawn
from dioscuri.plans.noise import NoiseSpec
from tests.support import engines, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan
from tests.support.loads import Load
from tests.support.networks import tiny_metroplex

FAMILIES = {
    "classifier": tiny_classifier.tiny,
    "vqgan": tiny_vqgan.tiny,
    "hierarchical_vae": engines.tiny,
    "metroplex": tiny_metroplex,
    "maskgit": tiny_maskgit.tiny,
    "sundae": tiny_sundae.tiny,
}
ROWS, STEPS = 4, 3
TOLERANCE = 1e-4
"""Of float32: metrics of a training step relative, all weights after it by relative L2 distance, outputs
relative to their largest value. 8-bit pictures may differ by one level."""


def main(words: Sequence[str]) -> None:
    """Parse the command line and compare; ends with code 1 if a family is out of tolerance."""
    parser = argparse.ArgumentParser(prog="parity.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--cpu", action="store_true", help="compare on the CPU")
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], metavar="FAMILY")
    options = parser.parse_args(list(words))
    passed = True
    for family in options.families or FAMILIES:
        result = compare(family, 0 if options.cpu else 1)
        print(json.dumps(result), flush=True)
        passed &= result["passed"]
    sys.exit(0 if passed else 1)


def compare(family: str, num_gpus: int) -> dict[str, Any]:
    """The largest differences between the twins, and whether they are within the tolerance."""
    hparams = FAMILIES[family]()
    hparams = replace(hparams, run=replace(hparams.run, num_gpus=num_gpus))
    load = Load(hparams, ROWS)
    made = {twin: engines.engine_of(twin, hparams) for twin in ("torch", "jax")}
    differences = {"metrics": _training(load, made), "weights": _weights(made), **_methods(load, made)}
    within = {
        name: bool(value <= (1 if name.startswith("levels") else TOLERANCE))
        for name, value in differences.items()
    }
    return {"family": family, "passed": all(within.values())} | {
        name: float(f"{value:.3g}") for name, value in differences.items()
    }


def _training(load: Load, made: dict[str, Any]) -> float:
    """Three steps from the same weights, with the same noise: the largest relative difference of a metric."""
    metrics: dict[str, list[dict[str, float]]] = {twin: [] for twin in made}
    for twin, engine in made.items():
        engine.initialise()
        for step in range(STEPS):
            load.train(engine, step, _noise(engine.family.noise_specs("train_step", ROWS), step))
            metrics[twin].append(engine.fetch_metrics())
    pairs = [
        (left[name], right[name]) for left, right in zip(*metrics.values(), strict=True) for name in left
    ]
    # numpy's maximum of numbers with a NaN is NaN, which is out of tolerance.
    return float(np.max([abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in pairs]))


def _weights(made: dict[str, Any]) -> float:
    """Relative L2 distance of all parameters together. Of a single bias that began at 0 it says little: Adam
    moves it by the sign of a gradient that may be rounding alone."""
    left, right = (engine.state_to_numpy()["model"] for engine in made.values())
    vectors = [np.concatenate([arrays[name].ravel() for name in left]) for arrays in (left, right)]
    return float(np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[0]))


def _methods(load: Load, made: dict[str, Any]) -> dict[str, float]:
    """The largest difference of every method whose noise can be recorded."""
    differences: dict[str, float] = {}
    for method, (rows, arguments) in load.calls.items():
        specs = made["torch"].family.noise_specs(method, ROWS, **split_arguments(arguments)[0])
        if any(spec.kind == "generator" for spec in specs):
            continue
        given = {"ema": True, "step": 0, "noise": _noise(specs, 0), **arguments}
        left, right = (engine.run(method, rows, **given) for engine in made.values())
        for name, array in left.items():
            difference = np.abs(array.astype(np.float64) - right[name]).max()
            if array.dtype == np.uint8:
                differences[f"levels of {method}"] = float(difference)
            else:
                differences[f"{method} {name}"] = float(difference / max(np.abs(array).max(), 1e-6))
    return differences


def _noise(specs: Sequence[NoiseSpec], step: int) -> dict[str, np.ndarray]:
    """The same for both twins."""
    rng = np.random.default_rng(step)
    return {spec.name: drawn(rng, spec) for spec in specs}


if __name__ == "__main__":
    run_command(main)
