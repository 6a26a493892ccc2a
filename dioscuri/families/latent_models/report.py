"""Report of a finished run: its test bound next to the baselines, the KL by level, and pictures."""

from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.data import pipeline
from dioscuri.engine import Array
from dioscuri.evaluation.judged import class_agreement
from dioscuri.families.latent_models.bounds import Unit, evaluate_bound, kl_table, unit_of
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.sheets import draw, reconstruct
from dioscuri.metrics import baselines
from dioscuri.outputs.pictures import ORIGINALS, Captions, above, sample_rows, save_grid, visible
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.wording import noun

N_SAMPLES, N_SAMPLES_OF_CLASSES = 64, 100
NEIGHBOURS = 3
N_RECONSTRUCTIONS = 32
N_TRAIN_FOR_BASELINES = 50_000


def report(context: Context, plan: LatentPlan) -> dict[str, Any]:
    """Print and return the numbers of the engine's averaged weights, and write sheets of samples and
    reconstructions."""
    hparams, engine, unit = context.hparams, context.engine, unit_of(plan)
    results: dict[str, Any] = {"unit": unit.name}
    batches = pipeline.evaluation_batches(context.sets.test, hparams, batch_size=hparams.val.batch_size)
    n_batches = -(-len(context.sets.test) // hparams.val.batch_size)
    bound = evaluate_bound(engine, tracked(batches, "test", n_batches, shown=context.writes), ema=True)
    results |= {
        "test_pictures": bound.n,
        "negative_elbo": bound.negative_elbo * unit.per_nat,
        "reconstruction": bound.reconstruction * unit.per_nat,
        "kl": [float(value) * unit.per_nat for value in bound.kl],
        **unit.in_nats(bound.negative_elbo),
    }
    context.say(
        f"{bound.n} test {noun(hparams)}: -ELBO {unit.tell(bound.negative_elbo)} = "
        f"reconstruction {results['reconstruction']:.4f} + KL {sum(results['kl']):.4f} {unit.name}"
    )
    for line in kl_table(plan, bound.kl, hparams.metrics.latent_active_threshold):
        context.say(f"  {line}")
    n = N_SAMPLES_OF_CLASSES if plan.num_classes else N_SAMPLES
    samples, asked = draw(context, plan, (1.0,) * len(plan.groups), n)
    if hparams.metrics.report_baselines:
        results |= _baselines(context, plan, unit)
        results |= _nearest(context, plan, samples, asked)
    _grids(context, plan, sample_rows(samples, asked))
    return results


def _baselines(context: Context, plan: LatentPlan, unit: Unit) -> dict[str, float]:
    """Histogram bounds of the test pictures, fitted to the training pictures."""
    n = min(len(context.sets.train), N_TRAIN_FOR_BASELINES)
    train = _flat(context.sets.train.gather(np.arange(n)))
    labels = None if context.sets.train.labels is None else np.asarray(context.sets.train.labels[:n])
    test = _flat(_test_pictures(context, plan))
    if plan.likelihood == "bernoulli":
        test = test > 0
        nats = {"histogram_baseline": baselines.bernoulli_bound(train, test)}
        if labels is not None:
            nats["class_mixture_baseline"] = baselines.bernoulli_class_mixture_bound(train, labels, test)
    else:
        n_levels, width = _levels(context)
        train, test = train // width, test // width
        nats = {"histogram_baseline": baselines.histogram_bound(train, test, n_levels)}
        if labels is not None:
            nats["class_mixture_baseline"] = baselines.class_mixture_bound(train, labels, test, n_levels)
    nats = {name: value * unit.per_nat for name, value in nats.items()}
    names = {
        "histogram_baseline": "histogram of every pixel",
        "class_mixture_baseline": "mixture over the classes",
    }
    baseline_text = ", ".join(f"{names[name]} {value:.4f}" for name, value in nats.items())
    context.say(
        f"baselines on the same split, {n} training {noun(context.hparams)}: {baseline_text} {unit.name}"
    )
    return nats


def _nearest(context: Context, plan: LatentPlan, samples: Array, asked: Array | None) -> dict[str, float]:
    """Distances to the nearest training picture, from samples and from as many test
    pictures, on the same grey levels; with classes, the agreement of the samples' neighbours."""
    n = min(len(context.sets.train), N_TRAIN_FOR_BASELINES)
    train = _flat(context.sets.train.gather(np.arange(n)))
    samples, test = _flat(samples), _flat(_test_pictures(context, plan)[: len(samples)])
    if plan.likelihood == "bernoulli":
        train = (train > 127) * np.uint8(255)
    else:
        n_levels, width = _levels(context)
        train, test = train // width * width, test // width * width
        samples = np.clip(np.rint(samples / width), 0, n_levels - 1) * width
    of_samples, of_test = (baselines.nearest_distances(examples, train) for examples in (samples, test))
    copies, what = int((of_samples < 1e-6).sum()), noun(context.hparams)
    context.say(
        f"distance to the nearest of {n} training {what} (Euclidean, values from 0 to 1), mean (least): "
        f"samples {of_samples.mean():.3f} ({of_samples.min():.3f}), test {what} {of_test.mean():.3f} "
        f"({of_test.min():.3f}); {copies} of {len(samples)} samples are copies"
    )
    results = {
        "nearest_training_distance_of_samples": float(of_samples.mean()),
        "nearest_training_distance_of_test_pictures": float(of_test.mean()),
        "copies": copies,
    }
    if asked is not None:
        labels = np.asarray(context.sets.train.labels)[:n]
        share = class_agreement(samples, asked, train, labels, k=NEIGHBOURS)
        results["class_agreement"] = share
        context.say(
            f"class by the {NEIGHBOURS} nearest training {what}: {share:.1%} of {len(samples)} samples are "
            "what was asked for"
        )
    return results


def _grids(context: Context, plan: LatentPlan, samples: tuple[list[Array], Captions]) -> None:
    """Sheets of samples, given as rows and captions, and of reconstructions."""
    hparams, test = context.hparams, context.sets.test
    # The batch size of validation, for which the engine has already compiled its program.
    size = hparams.val.batch_size
    batch = next(
        pipeline.evaluation_batches(test, hparams, batch_size=size, limit=min(N_RECONSTRUCTIONS, size))
    )
    made = reconstruct(context, plan, batch, ema=True)["image"]
    if context.writes:
        folder = context.directory.path
        context.say(f"samples: {save_grid(folder / 'samples.png', *samples)}")
        valid = batch["valid"]
        rows = above(visible(batch["image"], plan)[valid], made[valid])
        context.say(
            f"originals above reconstructions: {save_grid(folder / 'reconstructions.png', rows, ORIGINALS)}"
        )


def _test_pictures(context: Context, plan: LatentPlan) -> Array:
    """Test pictures uint8 (N, h, w, C) as the model sees them."""
    batches = pipeline.evaluation_batches(
        context.sets.test, context.hparams, batch_size=context.hparams.val.batch_size
    )
    return np.concatenate([visible(batch["image"], plan)[batch["valid"]] for batch in batches])


def _levels(context: Context) -> tuple[int, int]:
    """Number of grey levels, and the step from one to the next in 8-bit values."""
    n_levels = 2 ** int(context.hparams.data.num_bits)
    return n_levels, 256 // n_levels


def _flat(pictures: Array) -> Array:
    return pictures.reshape(len(pictures), -1)
