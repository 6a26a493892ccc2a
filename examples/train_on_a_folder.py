"""Train a hierarchical VAE on a folder of your own pictures, and write samples from it.

    python examples/train_on_a_folder.py pictures/ --side 32 --steps 20000

The run is in `logs-<name>`; the same command continues an interrupted run.
"""

import argparse
from importlib import import_module

import numpy as np
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="pictures of any size; they are cropped and resized")
parser.add_argument("--side", type=int, default=32)
parser.add_argument("--steps", type=int, default=20_000)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--runs", default="", help="folder of the runs")
parser.add_argument("--name", default="my_pictures")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def main() -> None:
    """Run the command line."""
    options = parser.parse_args()
    dio = import_module(f"dioscuri.{options.twin}")
    paths = dict.fromkeys(("train_data_path", "val_data_path", "synthesis_data_path"), options.folder)
    model = dio.train(
        "egs/hierarchical_vae/photos32.cfg",
        callback=lambda step, metrics: print(f"step {step}: {metrics['loss']:.4f}"),
        run={"name": options.name, "root": options.runs},
        data={"dataset_source": "custom", "target_res": options.side, **paths},
        train={
            "total_train_steps": options.steps,
            "batch_size": options.batch,
            "checkpoint_and_eval_interval_in_steps": min(1000, options.steps),
        },
        val={"batch_size": options.batch},
        report_baselines=False,
    )
    rows = [np.concatenate(model.generate(8, seed=seed), axis=1) for seed in range(8)]
    Image.fromarray(np.concatenate(rows)).save(f"{options.name}.png")
    print(f"{model}: samples in {options.name}.png")


if __name__ == "__main__":
    main()
