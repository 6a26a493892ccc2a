"""Configurations of the text8 SUNDAE (TOML) as overrides of egs/sundae/text8.cfg, for `convert_toml.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.pretrained import option_words
from dioscuri.hparams.archive import written_out
from dioscuri.importers.sundae import text_options
from dioscuri.importers.toml_tables import (
    COUNT,
    FLAG,
    LEFT_OUT,
    NUMBER,
    PAIR,
    TEXT,
    WHOLE,
    check_keys,
    check_presence,
    left_out,
)
from dioscuri.places import examples

BASE = examples() / "sundae" / "text8.cfg"

TABLES = {
    "trainer": {
        "batch_size": COUNT, "nb_batches": PAIR, "learning_rate": NUMBER, "checkpoint_frequency": WHOLE,
        **dict.fromkeys(("exp_name", "exp_dir", "metric_names", "nb_workers", "use_cuda"), LEFT_OUT),
        "use_amp": LEFT_OUT,
    },
    "data": {"name": TEXT, "root": LEFT_OUT, "sequence_length": COUNT, "vocabulary_size": COUNT},
    "model": {
        "embedding_dim": COUNT, "nb_layers": COUNT, "nb_heads": LEFT_OUT, "use_scalenorm": FLAG,
        "use_glu": FLAG, "use_rotary": FLAG,
    },
    "sample": {
        "temperature": NUMBER, "sample_proportion": NUMBER, "sample_frequency": LEFT_OUT, "steps": COUNT,
        "min_steps": WHOLE,
    },
}  # fmt: skip
"""Known keys and the kinds of their values; ignored ones may be anything.

nb_heads is ignored because the original always builds 8 heads.
"""
REQUIRED = {
    "unroll_steps": (), "trainer": ("batch_size",), "data": ("sequence_length", "vocabulary_size"),
    "sample": (), "model": tuple(name for name in TABLES["model"] if name != "nb_heads"),
}  # fmt: skip


def recognised(document: Mapping[str, Any]) -> bool:
    """Whether a TOML file is of the text8 program, whose network is [model], not [net]."""
    return "model" in document and "net" not in document


def converted(document: Mapping[str, Any], name: str, header: str, texts: str) -> tuple[str, str]:
    """The `.cfg` text of a parsed TOML file, and the keys that it does not carry over.

    `texts` is the folder of the text files, empty for that of egs/sundae/text8.cfg. A `UserError` names an
    unknown key.
    """
    check_keys(document, name, TABLES)
    check_presence(document, name, REQUIRED)
    words = option_words(_options(document, name, texts))
    leftover = {table: keys for table, keys in left_out(document, TABLES).items() if keys}
    if "nb_batches" in document["trainer"]:
        leftover["trainer"] = [*leftover.get("trainer", ()), "nb_batches[0]"]
    text = written_out(BASE, (), header.rstrip().splitlines(), published=words)
    return text, "; ".join(f"[{table}] {', '.join(keys)}" for table, keys in leftover.items())


def _options(document: Mapping[str, Any], name: str, texts: str) -> dict[str, dict[str, Any]]:
    trainer, data, model = document["trainer"], document["data"], vars(text_options(document["model"]))
    batch, every = trainer["batch_size"], trainer.get("checkpoint_frequency")
    _, n_validation = trainer.get("nb_batches", (0, 0))
    names = ("architecture", "dim", "depth", "nb_heads", "dim_head", "use_scalenorm", "use_glu", "use_rotary")
    return {
        "run": {"name": Path(name).stem},
        "data": {
            "sequence_length": data["sequence_length"],
            "codebook_size": data["vocabulary_size"],
            **({"train_data_path": texts} if texts else {}),
        },
        "model": {option: model[option] for option in names},
        "loss": {"unroll_steps": document["unroll_steps"]},
        "optimizer": {"learning_rate": trainer["learning_rate"]} if "learning_rate" in trainer else {},
        "train": {
            "batch_size": batch, **({"checkpoint_and_eval_interval_in_steps": every} if every else {})
        },
        "val": {
            "batch_size": batch,
            **({"n_samples_for_validation": n_validation * batch} if n_validation else {}),
        },
        "synthesis": {k: value for k, value in document["sample"].items() if k != "sample_frequency"},
    }  # fmt: skip
