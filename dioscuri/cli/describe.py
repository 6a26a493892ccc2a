"""`dioscuri describe`: what a configuration or a folder builds and what training takes, told beforehand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dioscuri.cli.parsers import Parser, add_twin, add_words
from dioscuri.cli.runs import sort_words
from dioscuri.errors import UserError
from dioscuri.files import finite
from dioscuri.library.describe import Question, options_of, plan_facts, step_facts
from dioscuri.plans.description import Row
from dioscuri.plans.footprint import read_memory
from dioscuri.plans.mesh import read_mesh
from dioscuri.run.sizes import GROUPS, format_bytes
from dioscuri.run.steps import described
from dioscuri.twins import TITLES, default_twin

_USAGE = """\
[CFG|FOLDER] [section.option=value ...] [--batch N] [--memory 24GB] [--json]
[CFG|FOLDER] [section.option=value ...] [--devices N] [--mesh data=8,shard=8]
[CFG|FOLDER] [section.option=value ...] [--quick] [--twin torch|jax] [--json]"""
_DESCRIPTION = """\
Show what a configuration builds and what a training step takes: parameters, layers by level, latents or
tokens, bytes of weights, average and optimiser, activations of an example, peak memory, FLOPs, and with
--memory the largest batch that fits. FOLDER is a run, logs-NAME, or a model folder with a config.json of this
project. No network is allocated and no data are read: PyTorch follows the step on tensors without memory, JAX
compiles it and asks for its plan."""
_EXAMPLE = "dioscuri describe egs/hierarchical_vae/cifar10_baseline.cfg --memory 24GB"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("describe", _USAGE, _DESCRIPTION, _EXAMPLE)
    add_words(parser)
    parser.add_argument("--batch", metavar="N", help="global batch size (default: train.batch_size)")
    parser.add_argument(
        "--devices", metavar="N", help="devices that share the batch (default: run.num_gpus, or one CPU)"
    )
    parser.add_argument(
        "--mesh", metavar="data=8,shard=8", help="devices as copies of the state, each shared by some of them"
    )
    parser.add_argument("--memory", metavar="24GB", help="memory of one device: show what fits into it")
    add_twin(parser)
    parser.add_argument("--quick", action="store_true", help="leave out the step; no framework is loaded")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, parser.usage_line)
    if chosen.quick and (chosen.batch or chosen.devices or chosen.mesh or chosen.memory):
        raise UserError("--quick leaves out the step, which --batch, --devices, --mesh and --memory are for")
    batch, devices = (_count(getattr(chosen, name), f"--{name}") for name in ("batch", "devices"))
    memory = None if chosen.memory is None else read_memory(chosen.memory, "--memory")
    mesh = None if chosen.mesh is None else read_mesh(chosen.mesh, "--mesh")
    hparams, checkpoints = options_of(arguments.cfg, arguments.overrides)
    facts = plan_facts(hparams, described(hparams))
    if not chosen.quick:
        question = Question(
            twin=chosen.twin or default_twin(), batch=batch, devices=devices, memory=memory, mesh=mesh
        )
        facts |= step_facts(hparams, question)
    facts |= checkpoints
    if chosen.json:
        print(json.dumps(finite(facts), indent=1, allow_nan=False))
    else:
        print("\n".join(_lines(facts)))


def _count(text: str | None, option: str) -> int | None:
    if text is not None and not (text.isascii() and text.isdigit() and 0 < int(text) <= 2**20):
        raise UserError(f"{option} '{text}' must be a whole number from 1 to {2**20:,}")
    return None if text is None else int(text)


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
    if "step" in facts:
        lines += ["", *_step(facts["step"])]
    if "fit" in facts:
        lines += ["", *_fit(facts["fit"], facts["step"])]
    if "checkpoints" in facts:
        steps = ", ".join(map(str, facts["checkpoints"])) or "none"
        lines.append(f"checkpoints, batches trained on: {steps}")
    return lines


def _step(step: Mapping[str, Any]) -> Iterator[str]:
    devices = f"{step['devices']} device{'s' if step['devices'] > 1 else ''}"
    accumulated = f", {step['accumulation_steps']} parts" if step["accumulation_steps"] > 1 else ""
    axes = ",".join(f"{name}={n}" for name, n in step["mesh"].items())
    shared = f" ({axes}), train.shard={step['shard']}" if step["devices"] > 1 else ""
    saved = ", activations recomputed" if step["checkpoint_activations"] else ""
    yield (
        f"a training step in {TITLES[step['twin']]}, {step['precision']}, batch {step['batch']:,} on "
        f"{devices}{shared}{accumulated}{saved}:"
    )
    yield f"  operations: {step['flops'] / 1e9:,.2f} GFLOP"
    yield f"  activations of an example: {format_bytes(step['activation_bytes_of_an_example'])}"
    held = f"{format_bytes(step['state_bytes'])} held, at most {format_bytes(step['step_bytes'])} in a step"
    yield f"  tensors on a device: {held}, {format_bytes(step['start_bytes'])} at the start"
    beside = f", with {format_bytes(step['process_bytes'])} of the program" if step["process_bytes"] else ""
    yield f"  peak memory of a device: {format_bytes(step['device_bytes'])}{beside}"
    for one in step["collectives"]:
        yield (
            f"  {one['name']} of the {one['what']} among {one['devices']}: {one['times']} x "
            f"{format_bytes(one['bytes'])}; a device sends {format_bytes(one['sent_bytes'])} in all"
        )
    yield from (f"  {note}" for note in step["notes"])


def _fit(fit: Mapping[str, Any], step: Mapping[str, Any]) -> Iterator[str]:
    memory = format_bytes(fit["memory_bytes"])
    fits = "fits" if fit["fits"] else "does not fit"
    yield f"batch {step['batch']:,} {fits} into {memory} a device; the largest that does:"
    yield from _table(
        [
            {
                "precision": row["precision"],
                "checkpoint_activations": str(row["checkpoint_activations"]),
                "batch": f"{row['batch']:,}" if row["batch"] else "none",
            }
            for row in fit["largest_batch"]
        ]
    )


def _table(rows: Sequence[Row]) -> list[str]:
    """Rows below column names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
