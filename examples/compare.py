"""Compare two VAEs by the Frechet distance of their samples to pictures, and by their bounds.

    python examples/compare.py torch_impl/logs-digits torch_impl/logs-other pictures.npy --n 1000

The pictures are a .npy file, uint8 (N, H, W, C), that neither model was trained on. The features are a
classifier's (`--classifier`, a run), or the pixels.
"""

import argparse
from importlib import import_module
from typing import Any

import numpy as np

from dioscuri.metrics.frechet import frechet_distance, moments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs=2)
parser.add_argument("pictures")
parser.add_argument("--classifier")
parser.add_argument("--n", type=int, default=1000)
parser.add_argument("--samples", type=int, default=16, help="samples of the importance-weighted bound")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def features(pictures: np.ndarray, classifier: Any) -> np.ndarray:
    """Features (N, D) of pictures."""
    if classifier is None:
        return pictures.reshape(len(pictures), -1) / 255
    vectors: np.ndarray = classifier.encode(pictures)["features"]
    return vectors


def main() -> None:
    """Run the command line."""
    options = parser.parse_args()
    dio = import_module(f"dioscuri.{options.twin}")
    pictures = np.load(options.pictures)
    classifier = dio.load(options.classifier) if options.classifier else None
    reference = moments(features(pictures, classifier))
    for where in options.models:
        model = dio.load(where)
        bound = model.bound(pictures[: options.n], samples=options.samples)
        distance = frechet_distance(moments(features(model.generate(options.n), classifier)), reference)
        print(
            f"{where}: FD {distance:.4f}, -ELBO {bound.bits_per_dim:.4f} bits/dim, importance-weighted "
            f"{-bound.importance.mean() / bound.dims / np.log(2):.4f}"
        )


if __name__ == "__main__":
    main()
