"""Does SUNDAE correct itself? A trained run samples with tokens that may change and with tokens that are
fixed once set, then repairs test pictures with a fraction of tokens replaced; a classifier evaluates each.

python tools/self_correction.py torch_impl/logs-sundae_mnist10k --pictures 500 --share 0.3
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.trained_run import open_run
from dioscuri.context import Context
from dioscuri.data import open_datasets, pipeline
from dioscuri.errors import run_command
from dioscuri.families.sundae.training import make_sampling_schedule
from dioscuri.families.token_models.drawing import decoded, draw, order
from dioscuri.families.token_models.report import judged
from dioscuri.restore import load_weights

Array = np.ndarray


def main(words: Sequence[str]) -> None:
    """Print the evaluation of each way of sampling."""
    options = parse(words)
    context = open_context(options.run)
    for title, parts in (
        ("tokens may change", draw(context, options.pictures, ema=True)),
        ("tokens stay as first set", frozen(context, options.pictures)),
        *repaired(context, options.pictures, options.share),
    ):
        rows = list(parts)
        print(f"{title}:")
        labels = np.concatenate([batch["label"] for batch in rows]) if "label" in rows[0] else None
        judged(context, np.concatenate([batch["image"] for batch in rows]), labels)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="self_correction.py", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder logs-<name> of a SUNDAE of pictures")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.3, help="of the tokens that are replaced")
    return parser.parse_args(arguments)


def open_context(run: Path) -> Context:
    """The run with the weights of its best checkpoint."""
    folder = run.resolve()
    hparams = open_run(folder, "sundae", str(run))
    module = import_module(f"{folder.parent.name}.inference_engine")
    engine = module.InferenceEngine(hparams)
    context = Context(hparams, RunDirectory(folder), open_datasets(hparams), engine)
    load_weights(context, averaged=True)
    return context


def frozen(context: Context, n: int) -> Iterator[dict[str, Array]]:
    """As many steps as the run's sampler, each of which fixes an equal number of tokens in a random order.
    All other tokens keep their random initial values."""
    options, plan, random = context.hparams.synthesis, context.engine.family.plan, np.random.default_rng(0)
    temperatures, size, L = (
        make_sampling_schedule(options).temperature,
        options.batch_size,
        plan.n_tokens,
    )
    for first in range(0, n, size):
        asked = order(context, first, size)
        tokens = random.integers(plan.codebook_size, size=(size, L), dtype=np.int32)
        update_steps = np.argsort(random.random((size, L)), 1) * options.steps // L
        for step, temperature in enumerate(temperatures):
            proposed = sampled_once(context, asked | {"start": tokens}, float(temperature), step=first + step)
            tokens = np.where(update_steps == step, proposed, tokens)
        rows = asked | {"image": decoded(context, tokens)}
        yield {name: array[: n - first] for name, array in rows.items()}


def repaired(context: Context, n: int, share: float) -> Iterator[tuple[str, list[dict[str, Array]]]]:
    """Test pictures with a fraction of tokens replaced by random ones, before and after the run's sampler."""
    plan, random = context.engine.family.plan, np.random.default_rng(1)
    size, before, after, wrong = context.hparams.synthesis.batch_size, [], [], []
    batches = pipeline.evaluation_batches(context.sets.test, context.hparams, batch_size=size, limit=n)
    for number, batch in enumerate(batches):
        given = {name: value for name, value in batch.items() if name in ("image", "tokens")}
        true = context.engine.run("encode", given, ema=True, step=0)["tokens"]
        hit = random.random(true.shape) < share
        damaged = np.where(hit, random.integers(plan.codebook_size, size=true.shape), true).astype(np.int32)
        asked = {"label": batch["label"]} if "label" in batch else {}
        mended = context.engine.run("generate", asked | {"start": damaged}, ema=True, step=number)["tokens"]
        rows = (tokens[batch["valid"]] for tokens in (true, damaged, mended))
        real, bad, good = (decoded(context, tokens).astype(np.float64) for tokens in rows)
        wrong.append([np.sqrt(np.mean((pictures - real) ** 2, (1, 2, 3))) for pictures in (bad, good)])
        shown = {name: array[batch["valid"]] for name, array in asked.items()}
        before.append(shown | {"image": bad.astype(np.uint8)})
        after.append(shown | {"image": good.astype(np.uint8)})
    errors = np.concatenate(wrong, 1).mean(1)
    yield f"test pictures, {share:.0%} of the tokens random, {errors[0]:.1f} levels off (RMS)", before
    yield f"the same pictures repaired, {errors[1]:.1f} levels off", after


def sampled_once(context: Context, asked: dict[str, Array], temperature: float, step: int) -> Array:
    """All tokens sampled once."""
    lines = {"end_temperature": None, "sample_proportion": 1.0, "end_sample_proportion": None}
    options = {"steps": 1, "min_steps": 1, "temperature": temperature, **lines}
    sampling = replace(context.hparams.synthesis, **options)
    made = context.engine.run("generate", asked, ema=True, step=step, sampling=sampling)
    tokens: Array = made["tokens"]
    return tokens


if __name__ == "__main__":
    run_command(main)
