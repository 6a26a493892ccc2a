"""`dioscuri describe`: the network of a configuration or a folder, without building it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.cli.parsers import Parser, add_words
from dioscuri.cli.runs import sort_words
from dioscuri.contract import family_of
from dioscuri.data.descriptors import describe as describe_source
from dioscuri.errors import UserError
from dioscuri.files import finite
from dioscuri.hparams import load
from dioscuri.places import configuration, here
from dioscuri.plans.description import Description, Row
from dioscuri.registry import family_part, has_part
from dioscuri.run.sizes import GROUPS, format_bytes

_USAGE = "[CFG|FOLDER] [section.option=value ...] [--json]"
_DESCRIPTION = """\
Show what a configuration builds: parameters, layers by level, latents or tokens, bytes of weights, average
and optimiser, and its data. FOLDER is a run, logs-NAME, or a model folder with a config.json of this project.
Nothing is built and no data are read."""
_EXAMPLE = "dioscuri describe egs/hierarchical_vae/cifar10_baseline.cfg"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("describe", _USAGE, _DESCRIPTION, _EXAMPLE)
    add_words(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, f"usage: {parser.usage}")
    hparams, checkpoints = _options(arguments.cfg, arguments.overrides)
    described = _described(hparams)
    facts = _facts(hparams, described) | checkpoints
    if chosen.json:
        print(json.dumps(finite(facts), indent=1, allow_nan=False))
    else:
        print("\n".join(_lines(facts)))


def _described(hparams: Any) -> Description:
    """The family's description or, if it has none, its parameter shapes."""
    family = hparams.run.family
    if not has_part(family, "description"):
        return Description(shapes=family_of(hparams).network_shapes(hparams), facts={}, layers={})
    described: Description = family_part(family, "description").describe(hparams)
    return described


def _options(path: Path, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Options of a configuration or of a folder, and the checkpoints of a run."""
    if not path.is_dir():
        return load(configuration(path)[0], overrides, twin=here().home("torch")), {}
    if pretrained.is_folder(path):
        return pretrained.read_hparams(path, overrides), {}
    copies = sorted(path.glob("hparams-*.cfg"))
    if len(copies) != 1:
        raise UserError(
            f"{path} is neither a run's folder, with one hparams-<name>.cfg, nor a model's folder, with a "
            f"{pretrained.CONFIG} of this project"
        )
    steps = list(store.steps(RunDirectory(path).checkpoints))
    return load(copies[0], overrides, twin=path.absolute().parent), {"checkpoints": steps}


def _facts(hparams: Any, described: Description) -> dict[str, Any]:
    data, source = hparams.data, describe_source(hparams.data.dataset_source)
    n_bytes = described.parameters * (8 if hparams.train.precision == "float64" else 4)
    vectors = dict(zip(GROUPS, (1, 1, 2), strict=True))  # the optimiser has two moments
    splits = ("train", "val", "synthesis")
    paths = {split: getattr(data, f"{split}_data_path") for split in splits}
    return {
        "family": hparams.run.family,
        "name": hparams.run.name,
        "parameters": described.parameters,
        "parts": described.parts,
        **dict(described.facts),
        **{f"{name}_bytes": n * n_bytes for name, n in vectors.items()},
        "layers": {title: [dict(row) for row in rows] for title, rows in described.layers.items()},
        "data": {
            "dataset_source": data.dataset_source,
            "kind": "tokens" if source.tokens else {1: "sounds", 2: "pictures", 3: "clips"}[source.rank],
            "target_res": data.target_res,
            "channels": data.channels,
            "num_bits": data.num_bits,
            **{f"{split}_data_path": path for split, path in paths.items() if path},
        },
    }


def _lines(facts: Mapping[str, Any]) -> list[str]:
    sizes = [f"{name} {format_bytes(facts[f'{name}_bytes'])}" for name in GROUPS]
    parts = ", ".join(f"{name} {n:,}" for name, n in facts["parts"].items())
    counts = [
        f"{name.replace('_', ' ')}: {value:,}"
        for name, value in facts.items()
        if isinstance(value, int) and name != "parameters" and not name.endswith("_bytes")
    ]
    lines = [
        f"{facts['name']}, a model of family {facts['family']}",
        f"parameters: {facts['parameters']:,} ({parts})",
        f"memory: {', '.join(sizes)}",
        *counts,
    ]
    for title, rows in facts["layers"].items():
        lines += ["", f"{title}:", *_table(rows)]
    lines += ["", "data: " + ", ".join(f"{name}={value}" for name, value in facts["data"].items())]
    if "checkpoints" in facts:
        steps = ", ".join(map(str, facts["checkpoints"])) or "none"
        lines.append(f"checkpoints, batches trained on: {steps}")
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    """Rows below column names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
