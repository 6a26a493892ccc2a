"""Write the configuration of a SUNDAE from a TOML file of sundae-vqgan.

python data_scripts/convert_toml.py FILE.toml OUT.cfg [--tokenizer FOLDER] [--tokens FOLDER]

What the original reads as relative to its own folders, its latents and tokenizer, must be given anew.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError, run_command
from common.run.files import replacing

TARGET = 16
"""Pixels of a token's side, where nothing else is known."""
ENDLESS = 1_000_000
"""Batches: the original stops when it is told to."""

TABLES = {
    "trainer": {
        "exp_name", "exp_dir", "batch_size", "mini_batch_size", "nb_batches", "max_steps", "learning_rate",
        "metric_names", "checkpoint_frequency", "lr_scheduler_name", "lr_scheduler_kwargs", "clip_grad",
        "clip_grad_value", "optimizer_name", "nb_workers", "use_cuda", "use_amp", "save_outputs", "grad_none",
        "checkpoint_best", "metric_best",
    },
    "data": {"vocab_size", "sequence_length", "root", "split_sizes", "train_root", "eval_root"},
    "vqgan": {"config", "checkpoint", "latent_shape"},
    "sampling": {
        "steps", "nb_samples", "temperature", "end_temperature", "sample_proportion",
        "end_sample_proportion", "min_steps", "early_stop",
    },
    "net": {
        "type", "dim", "nb_heads", "shorten_factor", "depth", "use_rotary", "conditional", "num_classes",
    },
}  # fmt: skip
"""Keys that are understood."""

OPTIMIZERS = {"adam": ("Adam", 0.0), "adamw": ("AdamW", 0.01), "adamax": ("Adamax", 0.0)}
"""Our rule and its weight decay."""


def converted(given: Mapping[str, Any], name: str, header: str, **places: str) -> str:
    """Text of the configuration of a parsed TOML file; `places` may hold `tokenizer` and `tokens`.

    Raises a `UserError` for what is not understood.
    """
    _check_keys(given, name)
    trainer, data, net = given["trainer"], given["data"], given["net"]
    side = isqrt(data["sequence_length"])
    if side**2 != data["sequence_length"]:
        _refuse(name, "[data] sequence_length", f"{data['sequence_length']} is no square number")
    if net.get("type", "hourglass") != "hourglass":
        _refuse(name, "[net] type", f"'{net['type']}' is not used by any file of the original")
    pixels = "vqgan" not in given
    options = _sections(given, side, pixels, places)
    options["run"]["name"] = Path(name).stem
    options["optimizer"] |= _optimizer(trainer, name)
    body = "\n\n".join(
        f"[{section}]\n" + "\n".join(f"{option} = {value!r}" for option, value in entries.items())
        for section, entries in options.items()
    )
    return f"{header}\n{body}\n"


def _sections(
    given: Mapping[str, Any], side: int, pixels: bool, places: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    trainer, data, net, sampling = (given[table] for table in ("trainer", "data", "net", "sampling"))
    classes = net.get("num_classes", 0) if net.get("conditional") else 0
    batch, part = trainer["batch_size"], trainer.get("mini_batch_size", trainer["batch_size"])
    frequency = trainer.get("checkpoint_frequency", 5000) or ENDLESS
    tokens = places.get("tokens") or "../datasets/tokens"
    paths = dict.fromkeys(("train", "validation", "test"), "")
    if not pixels:
        paths = {split: f"{tokens}/{split}" for split in paths}
    shown = {key: sampling[key] for key in sorted(TABLES["sampling"] - {"nb_samples"}) if key in sampling}
    return {
        "run": {
            "family": "sundae", "name": "", "seed": 420, "num_gpus": 1, "num_cpus": 8,
            "max_allowed_checkpoints": 2,
        },
        "data": {
            "dataset_source": "mnist_grey" if pixels else "tokens", "train_data_path": paths["train"],
            "val_data_path": paths["validation"], "synthesis_data_path": paths["test"],
            "target_res": side * (1 if pixels else int(places.get("factor") or TARGET)),
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
            "checkpoint_and_eval_interval_in_steps": frequency, "accumulation_steps": max(1, batch // part),
        },
        "val": {
            "n_samples_for_validation": max(1, trainer.get("nb_batches", [0, 32])[1] * part),
            "batch_size": part, "report_samples": 64,
        },
        "synthesis": {
            "synthesis_mode": "generation", "load_ema_weights": False,
            "batch_size": sampling.get("nb_samples", 4), **shown, "stop_rule": "masked",
        },
    }  # fmt: skip


def _optimizer(trainer: Mapping[str, Any], name: str) -> dict[str, Any]:
    rule, schedule = trainer.get("optimizer_name", "adamw"), trainer.get("lr_scheduler_name", "constant")
    if rule not in OPTIMIZERS:
        _refuse(name, "[trainer] optimizer_name", f"'{rule}' is none of {', '.join(OPTIMIZERS)}")
    if schedule != "constant":
        _refuse(name, "[trainer] lr_scheduler_name", f"'{schedule}': set it in the .cfg, as no file has it")
    clip = bool(trainer.get("clip_grad", False))
    return {
        "type": OPTIMIZERS[rule][0], "learning_rate_scheme": "constant",
        "learning_rate": trainer.get("learning_rate", 1e-4), "warmup_steps": 0.0, "decay_steps": 1,
        "decay_start": 0, "min_learning_rate": 0.0, "decay_rate": 1.0, "beta1": 0.9, "beta2": 0.999,
        "epsilon": 1e-8, "clip_gradient_norm": clip,
        "gradient_clip_norm_value": float(trainer.get("clip_grad_value", 5.0)), "gradient_skip": False,
        "gradient_skip_threshold": 1000.0,
    }  # fmt: skip


def _check_keys(given: Mapping[str, Any], name: str) -> None:
    needed = {"unroll_steps", "trainer", "data", "sampling", "net"}
    for table in sorted(needed - set(given)):
        _refuse(name, table, "is missing")
    for table, entries in given.items():
        if table != "unroll_steps" and table not in TABLES:
            _refuse(name, table, "is unknown")
        for key in entries if isinstance(entries, Mapping) else ():
            if key not in TABLES[table]:
                _refuse(name, f"[{table}] {key}", "is unknown")
    for table, keys in {
        "trainer": ("batch_size",), "data": ("vocab_size", "sequence_length"),
        "net": ("dim", "depth", "nb_heads", "use_rotary"),
    }.items():  # fmt: skip
        for key in keys:
            if key not in given[table]:
                _refuse(name, f"[{table}] {key}", "is missing")


def _refuse(name: str, what: str, why: str) -> NoReturn:
    raise UserError(f"{name}: {what} {why}")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def main(words: Sequence[str]) -> None:
    """Do what a command line says."""
    parser = argparse.ArgumentParser("convert_toml.py", description=__doc__)
    parser.add_argument("toml", type=Path)
    parser.add_argument("cfg", type=Path)
    parser.add_argument("--tokenizer", default="", help="run folder of the tokenizer")
    parser.add_argument("--tokens", default="", help="folder of token shards: train, validation, test")
    parser.add_argument("--factor", default="", help="pixels of a token's side")
    chosen = parser.parse_args(words)
    try:
        given = tomllib.loads(chosen.toml.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{chosen.toml} cannot be read: {error}") from error
    header = (
        f"# {chosen.toml.stem}, converted from sundae-vqgan.\n#\n"
        f"# Command:   sh torch_impl/train.sh {chosen.cfg}\n# Hardware:  not run here\n"
    )
    text = converted(
        given,
        str(chosen.toml),
        header,
        tokenizer=chosen.tokenizer,
        tokens=chosen.tokens,
        factor=chosen.factor,
    )
    with replacing(chosen.cfg) as beside:
        beside.write_text(text)
    print(f"{chosen.cfg}: check its paths, then: sh torch_impl/train.sh {chosen.cfg}")


if __name__ == "__main__":
    run_command(main)
