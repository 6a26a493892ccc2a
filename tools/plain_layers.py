"""Time a TiTok tokenizer, and the sampling steps of its generator, beside the same networks made of the
frameworks' plain layers: in turn in one process, the least of several rounds.

    python tools/plain_layers.py --backend torch|jax [--batch B] [--rounds N] [--layers N] [--steps N]
                                 [--tokenizer CFG] [--generator CFG]

Ours are the engine's calls, from rows of uint8 to rows on the host. The plain tokenizer encodes, finds the
nearest codes and decodes; the plain generator computes the logits of all steps with and without the class,
and neither draws nor re-masks, so it has less to do. `--layers` shortens every stack, for small machines.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np

from dioscuri import hparams as hparams_module
from dioscuri.errors import run_command
from tests.support.loads import Load
from tools.benchmark import open_engine, settings

Call = Callable[[], Any]


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, and print one JSON line for each work."""
    parser = argparse.ArgumentParser(prog="plain_layers.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=("torch", "jax"), required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokenizer", default="egs/vqgan/imagenet256_titok_bl64.cfg")
    parser.add_argument("--generator", default="egs/maskgit/imagenet256_titok_l32.cfg", help="an ImageBert")
    options = parser.parse_args(arguments)
    plain = import_module(f"tools.plain_{options.backend}")
    for name, calls in (("encode + decode", tokenizer_calls), ("generate", generator_calls)):
        ours, theirs = least_seconds(calls(options, plain), options.rounds)
        row = {"work": name, "ours_ms": round(1e3 * ours, 1), "plain_ms": round(1e3 * theirs, 1)}
        row |= {"ratio": round(ours / theirs, 3)}
        print(json.dumps(row | vars(options) | settings(options.backend)))


def least_seconds(calls: tuple[Call, Call], rounds: int) -> list[float]:
    """The least time of each call, after one that compiles."""
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for call, times in zip(calls, seconds, strict=True):
            begin = time.perf_counter()
            call()
            if number:
                times.append(time.perf_counter() - begin)
    return [min(times) for times in seconds]


def tokenizer_calls(options: argparse.Namespace, plain: Any) -> tuple[Call, Call]:
    """Pictures to tokens and back: our engine's, and the plain network's."""
    stacks = ("encoder", "decoder") if options.layers else ()
    shortened = [f"model.{stack}_layers={options.layers}" for stack in stacks]
    hparams = _hparams(options.tokenizer, [*shortened, f"train.batch_size={options.batch}"])
    load, engine = Load(hparams, options.batch), open_engine(options.backend, hparams, "encode")
    network = plain.Tokenizer(engine.family.plan)

    def ours() -> None:
        load.call(engine, "encode")
        load.call(engine, "decode")

    return ours, lambda: network.run(load.training["image"])


def generator_calls(options: argparse.Namespace, plain: Any) -> tuple[Call, Call]:
    """Classes to tokens: our engine's sampler, and the plain network's logits."""
    shortened = [f"model.num_hidden_layers={options.layers}"] if options.layers else []
    words = [*shortened, f"train.batch_size={options.batch}", f"synthesis.steps={options.steps}"]
    hparams = _hparams(options.generator, words)
    hparams = replace(hparams, data=replace(hparams.data, tokenizer_path=""))
    load, engine = Load(hparams, options.batch), open_engine(options.backend, hparams, "generate")
    network = plain.Generator(engine.family.plan)
    ids = np.zeros((2 * options.batch, engine.family.plan.length), np.int32)

    def theirs() -> None:
        for _ in range(options.steps):
            network.run(ids)

    return lambda: load.call(engine, "generate"), theirs


def _hparams(path: str, words: list[str]) -> Any:
    return hparams_module.load(path, ["run.num_gpus=0", "train.precision=float32", *words])


if __name__ == "__main__":
    run_command(main)
