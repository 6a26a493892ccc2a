"""Write the configuration of a SUNDAE from a TOML file of sundae-vqgan or of the text8 SUNDAE.

python data_scripts/convert_toml.py FILE.toml OUT.cfg [--tokenizer FOLDER] [--tokens FOLDER] [--pixels FOLDER]

Latents and tokenizer, whose paths the original reads relative to its folders, must be given again. A file
without a table [vqgan] is for grey levels: of MNIST, KMNIST or Fashion-MNIST, according to its train_root, or
of the set whose four idx files lie in mnist/ inside the folder `--pixels`.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

from dioscuri.contract import check_options
from dioscuri.errors import UserError, run_command
from dioscuri.files import plain_bytes, replacing
from dioscuri.hparams import load
from dioscuri.importers import text8
from dioscuri.importers.toml_tables import (
    COUNT,
    DEPTH,
    FACTORS,
    FLAG,
    LEFT_OUT,
    NUMBER,
    PAIR,
    TEXT,
    WHOLE,
    check_keys,
    check_presence,
    refuse,
)
from dioscuri.importers.toml_tables import left_out as keys_left_out

TARGET = 16
"""Default number of pixels per token side."""
ENDLESS = 1_000_000
"""Number of batches: the original trains until it is stopped."""

WHOLE_SET = 10**9
"""More examples than any set holds."""

PIXELS = {
    "mnist": "", "kmnist": "../datasets/kmnist", "fashion": "../datasets/fashion_mnist",
    "fashionmnist": "../datasets/fashion_mnist",
}  # fmt: skip
"""Sets of grey levels by the original's names, and our `data.dataset_path`, empty for its default."""

TABLES = {
    "trainer": {
        "batch_size": COUNT, "mini_batch_size": COUNT, "nb_batches": PAIR, "max_steps": WHOLE,
        "learning_rate": NUMBER, "checkpoint_frequency": WHOLE, "lr_scheduler_name": TEXT, "clip_grad": FLAG,
        "clip_grad_value": NUMBER, "optimizer_name": TEXT,
        **dict.fromkeys(
            (
                "exp_name", "exp_dir", "metric_names", "lr_scheduler_kwargs", "nb_workers", "use_cuda",
                "use_amp", "save_outputs", "grad_none", "checkpoint_best", "metric_best",
            ),
            LEFT_OUT,
        ),
    },
    "data": {
        "vocab_size": COUNT, "sequence_length": COUNT, "root": TEXT, "train_root": TEXT,
        "split_sizes": LEFT_OUT, "eval_root": LEFT_OUT,
    },
    "vqgan": {"latent_shape": PAIR, "config": LEFT_OUT, "checkpoint": LEFT_OUT},
    "sampling": {
        "steps": COUNT, "nb_samples": COUNT, "temperature": NUMBER, "end_temperature": NUMBER,
        "sample_proportion": NUMBER, "end_sample_proportion": NUMBER, "min_steps": WHOLE, "early_stop": FLAG,
    },
    "net": {
        "type": TEXT, "dim": COUNT, "nb_heads": COUNT, "shorten_factor": FACTORS, "depth": DEPTH,
        "use_rotary": FLAG, "conditional": FLAG, "num_classes": WHOLE,
    },
}  # fmt: skip
"""Known keys and the kinds of their values."""
REQUIRED = {
    "unroll_steps": (), "trainer": ("batch_size",), "data": ("vocab_size", "sequence_length"),
    "sampling": (), "net": ("dim", "depth", "nb_heads", "use_rotary"),
}  # fmt: skip

OPTIMIZERS = {"adam": ("Adam", 0.0), "adamw": ("AdamW", 0.01), "adamax": ("Adamax", 0.0)}
"""Our rule and its weight decay."""


def converted(given: Mapping[str, Any], name: str, header: str, **places: str) -> str:
    """The `.cfg` text of a parsed TOML file.

    `places` may hold `tokenizer`, `tokens`, `pixels` and `factor`. A `UserError` names an unknown key.
    """
    check_keys(given, name, TABLES)
    check_presence(given, name, REQUIRED)
    side = _checked_side(given, name)
    options = _sections(given, side, "vqgan" not in given, places)
    options["run"]["name"] = Path(name).stem
    options["data"] |= _pixels(given, name, places.get("pixels", ""))
    options["optimizer"] |= _optimizer(given["trainer"], name)
    body = "\n\n".join(
        f"[{section}]\n" + "\n".join(f"{option} = {value!r}" for option, value in entries.items())
        for section, entries in options.items()
    )
    return f"{header}\n{body}\n"


def left_out(given: Mapping[str, Any]) -> str:
    """A line about the keys of a checked TOML file that are not carried over."""
    keys = keys_left_out(given, TABLES)
    if "nb_batches" in given["trainer"]:
        keys["trainer"].append("nb_batches[0]")
    if "vqgan" in given:
        keys["data"] += sorted({"root", "train_root"} & set(given["data"]))
    if not given["net"].get("conditional"):
        keys["net"] += sorted({"num_classes"} & set(given["net"]))
    return _in_words(keys)


def _in_words(keys: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"[{table}] {', '.join(names)}" for table, names in keys.items() if names)


def _sections(
    given: Mapping[str, Any], side: int, pixels: bool, places: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    trainer, data, net, sampling = (given[table] for table in ("trainer", "data", "net", "sampling"))
    classes = net["num_classes"] if net.get("conditional") else 0
    batch, mini_batch = trainer["batch_size"], trainer.get("mini_batch_size", trainer["batch_size"])
    examples = trainer.get("nb_batches", [0, 0])[1] * mini_batch or WHOLE_SET
    frequency = trainer.get("checkpoint_frequency", 5000) or ENDLESS
    tokens = places.get("tokens") or "../datasets/tokens"
    paths = dict.fromkeys(("train", "validation", "test"), "")
    if not pixels:
        paths = {split: f"{tokens}/{split}" for split in paths}
    shown = {key: sampling[key] for key in sorted(sampling) if key != "nb_samples"}
    return {
        "run": {
            "family": "sundae", "name": "", "seed": 420, "num_gpus": 1, "num_cpus": 8,
            "max_allowed_checkpoints": 2,
        },
        "data": {
            "dataset_source": "mnist_grey" if pixels else "tokens", "train_data_path": paths["train"],
            "val_data_path": paths["validation"], "synthesis_data_path": paths["test"],
            "target_res": side * (1 if pixels else int(places.get("factor", TARGET))),
            "channels": 1 if pixels else 3, "num_bits": 8.0, "random_horizontal_flip": False,
            "labels": classes > 0, "tokenizer_path": places.get("tokenizer") or "", "grid": side,
            "codebook_size": data["vocab_size"],
        },
        "model": {
            "dim": net["dim"], "depth": _tuples(net["depth"]),
            "shorten_factor": _tuples(net.get("shorten_factor") or 0), "nb_heads": net["nb_heads"],
            "use_rotary": net["use_rotary"], "num_classes": classes, "legacy_positions": True,
        },
        "loss": {
            "unroll_steps": given["unroll_steps"],
            "weight_decay": OPTIMIZERS.get(trainer.get("optimizer_name", "adamw"), ("", 0.0))[1],
        },
        "optimizer": {},
        "train": {
            "total_train_steps": trainer.get("max_steps") or ENDLESS, "batch_size": batch, "ema_decay": 0.0,
            "resume_from_ema": False, "logging_interval_in_steps": 50,
            "checkpoint_and_eval_interval_in_steps": frequency, "accumulation_steps": batch // mini_batch,
        },
        "val": {"n_samples_for_validation": examples, "batch_size": mini_batch, "report_samples": 64},
        "synthesis": {
            "synthesis_mode": "generation", "load_ema_weights": False,
            "batch_size": sampling.get("nb_samples", 4), **shown, "stop_rule": "masked",
        },
    }  # fmt: skip


def _optimizer(trainer: Mapping[str, Any], name: str) -> dict[str, Any]:
    rule, schedule = trainer.get("optimizer_name", "adamw"), trainer.get("lr_scheduler_name", "constant")
    if rule not in OPTIMIZERS:
        refuse(name, "[trainer] optimizer_name", f"'{rule}' is none of {', '.join(OPTIMIZERS)}")
    if schedule != "constant":
        refuse(name, "[trainer] lr_scheduler_name", f"'{schedule}': set it in the .cfg, as no file has it")
    clip = bool(trainer.get("clip_grad", False))
    return {
        "type": OPTIMIZERS[rule][0], "learning_rate_scheme": "constant",
        "learning_rate": trainer.get("learning_rate", 1e-4), "warmup_steps": 0.0, "decay_steps": 1,
        "decay_start": 0, "min_learning_rate": 0.0, "decay_rate": 1.0, "beta1": 0.9, "beta2": 0.999,
        "epsilon": 1e-8, "clip_gradient_norm": clip,
        "gradient_clip_norm_value": float(trainer.get("clip_grad_value", 5.0)), "gradient_skip": False,
        "gradient_skip_threshold": 1000.0,
    }  # fmt: skip


def _pixels(given: Mapping[str, Any], name: str, folder: str) -> dict[str, str]:
    """The folder of the idx files of grey levels: as given, or from the name of the original's folder."""
    if "vqgan" in given:
        if folder:
            refuse(name, "[vqgan]", "makes tokens of pictures: give --tokens instead of --pixels")
        return {}
    if given["data"]["sequence_length"] != 28**2:
        refuse(name, "[data] sequence_length", "must be 784 without [vqgan]: grey levels are those of 28x28")
    root = given["data"].get("train_root", given["data"].get("root", ""))
    known = PIXELS.get(Path(root).parent.name.removeprefix("discrete-"))
    if not folder and known is None:
        refuse(
            name, "[data] train_root", f"'{root}' is no discrete-{{mnist,kmnist,fashionmnist}}/train: say by "
            "--pixels FOLDER which set it is, with its four idx files in FOLDER/mnist",
        )  # fmt: skip
    path = folder or known
    return {"dataset_path": path} if path else {}


def _checked_side(given: Mapping[str, Any], name: str) -> int:
    """Side of the grid of tokens, if the values are consistent."""
    trainer, net, length = given["trainer"], given["net"], given["data"]["sequence_length"]
    side = isqrt(length)
    if side**2 != length:
        refuse(name, "[data] sequence_length", f"{length} is not a square number")
    shape = given.get("vqgan", {}).get("latent_shape", [side, side])
    if shape != [side, side]:
        refuse(name, "[vqgan] latent_shape", f"{shape} must be {[side, side]}, for sequence_length {length}")
    if net.get("type", "hourglass") != "hourglass":
        refuse(name, "[net] type", f"'{net['type']}' is not used by any file of the original")
    if net.get("conditional") and not net.get("num_classes"):
        refuse(name, "[net] conditional", "is true: give num_classes, too")
    batch, mini_batch = trainer["batch_size"], trainer.get("mini_batch_size", trainer["batch_size"])
    if batch % mini_batch:
        refuse(name, "[trainer] mini_batch_size", f"{mini_batch} must divide batch_size {batch}")
    return side


def _check_options(cfg: Path, toml: Path) -> None:
    """Check options and plan as training does, except for the tokenizer, which may be made later."""
    try:
        check_options(load(cfg, ["data.tokenizer_path="]))
    except UserError as error:
        raise UserError(f"{toml}: as a .cfg, {str(error).removeprefix(f'{cfg}: ')}") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def main(words: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("convert_toml.py", description=__doc__)
    parser.add_argument("toml", type=Path)
    parser.add_argument("cfg")
    parser.add_argument("--tokenizer", default="", help="run folder of the tokenizer")
    parser.add_argument("--tokens", default="", help="folder of token shards: train, validation, test")
    parser.add_argument("--pixels", default="", help="without a tokenizer: folder of the idx files' mnist/")
    parser.add_argument("--texts", default="", help="of a text8 file: folder of the text files")
    parser.add_argument("--factor", default=str(TARGET), help="pixels of a token's side")
    chosen = parser.parse_args(words)
    if chosen.cfg.endswith("/"):
        raise UserError(f"'{chosen.cfg}' is the name of a folder: give that of a file")
    chosen.cfg = Path(chosen.cfg)
    if not chosen.factor.isdecimal() or not int(chosen.factor):
        raise UserError(f"--factor '{chosen.factor}' must be {COUNT}")
    try:
        given = tomllib.loads(plain_bytes(chosen.toml).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{chosen.toml} cannot be read: {error}") from error
    program = "the text8 SUNDAE" if text8.recognised(given) else "sundae-vqgan"
    header = (
        f"# {chosen.toml.stem}, converted from {program}.\n#\n"
        f"# Command:   sh torch_impl/train.sh {chosen.cfg}\n# Hardware:  not run here\n"
    )
    if text8.recognised(given):
        text, leftover = text8.converted(given, str(chosen.toml), header, chosen.texts)
        _write(text, leftover, chosen)
        return
    text = converted(
        given,
        str(chosen.toml),
        header,
        tokenizer=chosen.tokenizer,
        tokens=chosen.tokens,
        pixels=chosen.pixels,
        factor=chosen.factor,
    )
    _write(text, left_out(given), chosen)


def _write(text: str, leftover: str, chosen: argparse.Namespace) -> None:
    """Write a configuration for training, and print what is not carried over."""
    with replacing(chosen.cfg) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _check_options(temporary, chosen.toml)
    if leftover:
        print(f"{chosen.toml}: not carried over: {leftover}")
    print(f"{chosen.cfg}: check its paths, then: sh torch_impl/train.sh {chosen.cfg}")


if __name__ == "__main__":
    run_command(main)
