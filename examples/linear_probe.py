"""How much of the classes each level of a VAE's latents holds: the accuracy of a linear classifier.

    python examples/linear_probe.py torch_impl/logs-digits --chart linear_probe.png

The classifier is a logistic regression on the posterior's means of the run's training pictures; it is tested
on the run's test pictures. The run's data must have labels.
"""

import argparse
from importlib import import_module
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dioscuri import UserError
from dioscuri.data import open_datasets
from dioscuri.data.pipeline import evaluation_batches
from dioscuri.outputs.pictures import visible

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="run, folder, hub id, or name of shipped weights")
parser.add_argument("--n", type=int, default=5000, help="training pictures at most, and test pictures")
parser.add_argument("--chart", default="linear_probe.png")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def examples(model: Any, split: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, H, W, C) and their labels (N,)."""
    if split.labels is None:
        raise UserError(f"{split.name} has no labels: a probe needs them")
    batch = next(evaluation_batches(split, model.hparams, batch_size=min(n, len(split)), limit=n))
    return visible(batch["image"], model.plan), np.asarray(split.labels)[batch["index"]]


def features(model: Any, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Features (N, D) by name: the pixels, the means of every level from the coarsest on, and of all."""
    codes, groups = model.encode(pictures), model.plan.groups
    means = [codes[f"mean.{group}"].reshape(len(pictures), -1) for group in range(len(groups))]
    levels: dict[str, list[np.ndarray]] = {}
    for block, mean in zip(groups, means, strict=True):
        levels.setdefault(f"level {block.level}, {'x'.join(map(str, block.grid))}", []).append(mean)
    joined = {name: np.concatenate(parts, 1) for name, parts in levels.items()}
    return {"pixels": pictures.reshape(len(pictures), -1), **joined, "all levels": np.concatenate(means, 1)}


def accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Share of test features (M, D) that a linear classifier of the training features calls right."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=10_000))
    return float(probe.fit(train, labels).score(test, truth))


def main() -> None:
    """Run the command line."""
    options = parser.parse_args()
    model = import_module(f"dioscuri.{options.twin}").load(options.model)
    sets = open_datasets(model.hparams)
    (train, labels), (test, truth) = (examples(model, part, options.n) for part in (sets.train, sets.test))
    known, tested = features(model, train), features(model, test)
    results = {name: accuracy(array, labels, tested[name], truth) for name, array in known.items()}
    for name, share in results.items():
        print(f"{name}: {known[name].shape[1]} features, {share:.1%} of {len(test)} test pictures are right")
    figure = Figure(figsize=(7, 0.5 * len(results) + 1), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(list(results), list(results.values())), fmt="{:.1%}")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("accuracy of a linear classifier")
    figure.savefig(options.chart)
    print(f"chart: {options.chart}")


if __name__ == "__main__":
    main()
