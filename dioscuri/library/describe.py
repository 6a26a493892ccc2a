"""What a configuration builds and what training it takes, told before anything is allocated."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, get_type_hints

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.data.descriptors import describe as describe_source
from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.face.options import check_types, settings_of
from dioscuri.files import read_path
from dioscuri.hparams import load
from dioscuri.inputs import read_count
from dioscuri.library.sources import shipped_or
from dioscuri.places import configuration, here
from dioscuri.plans.description import Description
from dioscuri.plans.footprint import read_memory
from dioscuri.plans.lora import adapters_of, trained_shapes
from dioscuri.plans.mesh import MeshShape, read_mesh
from dioscuri.run.sizes import GROUPS
from dioscuri.run.steps import Step, described

SOURCE = "describe"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a training step; None stands for what the options say.

    `batch` is the global batch, `memory` bytes of one device.
    """

    twin: str
    batch: int | None = None
    devices: int | None = None
    memory: int | None = None
    mesh: MeshShape | None = None

    def __post_init__(self) -> None:
        if self.mesh and self.devices and self.mesh.devices != self.devices:
            raise UserError(
                f"mesh {self.mesh} has {self.mesh.devices} devices, not {self.devices}: leave one of them out"
            )


def question(twin: str, batch: Any, devices: Any, memory: str | None, mesh: str | None) -> Question:
    """A checked question; a `UserError` names what is no count, no amount of memory or no mesh."""
    counts = {
        name: None if count is None else read_count(count, name)
        for name, count in (("batch", batch), ("devices", devices))
    }
    return Question(
        twin=twin,
        memory=None if memory is None else read_memory(memory, "memory"),
        mesh=None if mesh is None else read_mesh(mesh, "mesh"),
        **counts,
    )


def describe(where: Any, question: Question, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """See `dioscuri.torch.describe`."""
    checkpoints: dict[str, Any] = {}
    if isinstance(where, Model):
        if overrides:
            raise UserError(f"{SOURCE}: a model has its options: leave out {', '.join(overrides)}")
        hparams = where.hparams
    else:
        path = read_path(where, f"{SOURCE} takes a model, a .cfg file or a folder")
        hparams, checkpoints = options_of(path, ())
        sections = get_type_hints(type(hparams))
        given = settings_of(sections, overrides, SOURCE)
        check_types(sections, given)
        words = [f"{item.section}.{item.option}={item.text}" for item in given]
        hparams, checkpoints = options_of(path, words) if words else (hparams, checkpoints)
    return plan_facts(hparams, described(hparams)) | step_facts(hparams, question) | checkpoints


def options_of(path: Path, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Options of a configuration or of a folder, and the checkpoints of a run."""
    path = shipped_or(path)
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


def plan_facts(hparams: Any, description: Description) -> dict[str, Any]:
    """Parameters, layers, latents or tokens, bytes of what a run keeps, and the data."""
    data, source = hparams.data, describe_source(hparams.data.dataset_source)
    trained = sum(map(prod, trained_shapes(hparams, description.shapes).values()))
    adapters = trained if adapters_of(hparams) else 0
    width = 8 if hparams.train.precision == "float64" else 4
    # The optimiser has two moments.
    held = dict(zip(GROUPS, (description.parameters + adapters, trained, 2 * trained), strict=True))
    splits = ("train", "val", "synthesis")
    paths = {split: getattr(data, f"{split}_data_path") for split in splits}
    return {
        "family": hparams.run.family,
        "name": hparams.run.name,
        "parameters": description.parameters,
        "parts": description.parts,
        **dict(description.facts),
        **({"adapter_parameters": adapters} if adapters else {}),
        **{f"{name}_bytes": n * width for name, n in held.items()},
        "layers": {title: [dict(row) for row in rows] for title, rows in description.layers.items()},
        "data": {
            "dataset_source": data.dataset_source,
            "kind": "tokens" if source.tokens else {1: "sounds", 2: "pictures", 3: "clips"}[source.rank],
            "target_res": data.target_res,
            "channels": data.channels,
            "num_bits": data.num_bits,
            **{f"{split}_data_path": path for split, path in paths.items() if path},
        },
    }


def step_facts(hparams: Any, question: Question) -> dict[str, Any]:
    """A training step: bytes on a device, operations, and what fits into the memory asked about.

    Raises a `UserError` for a batch that the devices cannot share, or a mesh that does not fit.
    """
    hparams, question = _arranged(hparams, question)
    train, source = hparams.train, Step(hparams, question.twin, question.devices)
    batch = source.check_batch(question.batch or train.batch_size)
    taken = source.footprint(batch)
    facts = {
        "twin": question.twin,
        "precision": train.precision,
        "checkpoint_activations": train.checkpoint_activations,
        "accumulation_steps": train.accumulation_steps,
        "batch": batch,
        "devices": source.devices,
        "mesh": asdict(source.mesh),
        "flops": taken.flops * source.devices,
        "state_bytes": taken.state,
        "activation_bytes_of_an_example": taken.activations * train.accumulation_steps // taken.rows,
        "start_bytes": taken.start,
        "step_bytes": taken.step,
        "process_bytes": source.process + taken.surplus,
        "device_bytes": taken.peak + source.process,
        "shard": train.shard,
        "collectives": [
            {
                "name": one.name,
                "what": one.what,
                "times": one.times,
                "devices": one.devices,
                "bytes": one.n_bytes,
                "sent_bytes": one.sent,
            }
            for one in taken.collectives
        ],
        "notes": source.notes,
    }
    if question.memory is None:
        return {"step": facts}
    return {"step": facts, "fit": _fit(hparams, question, facts["device_bytes"])}


def _arranged(hparams: Any, question: Question) -> tuple[Any, Question]:
    """Options and question with the devices of the mesh, if one is given."""
    train, mesh = hparams.train, question.mesh
    if mesh is None:
        return hparams, question
    if mesh.shard > 1 and train.shard == "none":
        raise UserError(
            f"mesh {mesh} spreads the state over {mesh.shard} devices, but train.shard is 'none': add "
            "train.shard=optimizer or train.shard=parameters"
        )
    if mesh.shard == 1 and train.shard != "none":
        raise UserError(
            f"mesh {mesh} spreads nothing, but train.shard is '{train.shard}': add train.shard=none"
        )
    train = replace(train, shard_devices=mesh.shard if mesh.shard > 1 else 0)
    return replace(hparams, train=train), replace(question, devices=mesh.devices)


def _fit(hparams: Any, question: Question, asked: int) -> dict[str, Any]:
    """Whether the asked batch fits, and the largest ones that do, with and without what saves memory."""
    memory = question.memory or 0
    single = hparams.train.precision == "float64"
    rows = []
    for precision in ("float64",) if single else ("float32", "bfloat16"):
        for checkpointed in (False, True):
            train = replace(hparams.train, precision=precision, checkpoint_activations=checkpointed)
            batch = Step(replace(hparams, train=train), question.twin, question.devices).largest_batch(memory)
            rows.append({"precision": precision, "checkpoint_activations": checkpointed, "batch": batch})
    return {"memory_bytes": memory, "fits": asked <= memory, "largest_batch": rows}
