"""Load a trained model, sample pictures, and write them as one sheet.

python examples/load_and_sample.py digits-maskgit --classes 3 7 --seed 1
"""

import argparse
from importlib import import_module

import numpy as np
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="run, folder, hub id, or name of shipped weights")
parser.add_argument("--classes", type=int, nargs="*")
parser.add_argument("--n", type=int, default=16)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="samples.png")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def main() -> None:
    """Run the command line."""
    options = parser.parse_args()
    dio = import_module(f"dioscuri.{options.twin}")
    model = dio.load(options.model)
    classes = {"classes": np.resize(options.classes, options.n)} if options.classes else {}
    pictures = model.generate(options.n, seed=options.seed, **classes)
    sheet = np.concatenate(pictures, axis=1)
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(options.out)
    print(f"{model}: {len(pictures)} pictures in {options.out}")


if __name__ == "__main__":
    main()
