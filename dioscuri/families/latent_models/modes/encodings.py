"""Files of encodings: `index.json` and safetensors shards that hold the selected variates of every picture.

A shard has, for every latent group with selected variates, `mean.<group>`, `std.<group>` and `z.<group>`,
float32 (N, H, W, selected), and `image`, the pictures as the model saw them, uint8 (N, h, w, C); groups have
the canonical names of their blocks. Classes, if the model has any, are in `label` int32 (N,). Captions, if
any, are in `caption` int32 (N, L), for a prior of latents given texts. The index has `header`, everything
that the encodings depend on; `shards`, each with its file and the stable names (`keys`) of its N pictures, in
order; and `complete`. It is rewritten after every shard, so an interrupted encoding can continue.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.latent_models.bounds import group_name
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.files import plain_bytes, read_sealed_json, replacing, write_sealed_json

FORMAT = 1
INDEX = "index.json"


def architecture_hash(plan: LatentPlan) -> str:
    """Hash of the layer plan: every checkpoint of a plan can decode its encodings."""
    layers = asdict(plan)
    if not plan.num_classes:  # encodings of version 0.1.0 were made before there were classes
        del layers["num_classes"]
    return hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest()


class EncodingWriter:
    """Adds shards to a folder, continuing after those that an earlier process wrote with the same header."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self._folder = folder
        self._index: dict[str, Any] = {"header": dict(header), "complete": False, "shards": []}
        if (folder / INDEX).exists():
            index = _read_index(folder)
            if index["header"] == self._index["header"] and not index["complete"]:
                self._index["shards"] = index["shards"]

    @property
    def n_pictures(self) -> int:
        """Number of pictures already written."""
        return sum(len(shard["keys"]) for shard in self._index["shards"])

    @property
    def n_batches(self) -> int:
        """Number of batches already written."""
        return sum(shard["batches"] for shard in self._index["shards"])

    def add(self, keys: Sequence[str], arrays: Mapping[str, Array], n_batches: int) -> None:
        """Write a shard of N pictures from `n_batches` batches, then name it in the index."""
        name = f"shard-{len(self._index['shards']):05d}.safetensors"
        content = safetensors.numpy.save({key: array.copy(order="C") for key, array in arrays.items()})
        with replacing(self._folder / name) as temporary:
            temporary.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entry = {"file": name, "sha256": digest, "batches": n_batches, "keys": list(keys)}
        self._index["shards"].append(entry)
        write_sealed_json(self._folder / INDEX, self._index)

    def finish(self) -> None:
        """Mark the encodings complete and remove shards of earlier encodings."""
        self._index["complete"] = True
        write_sealed_json(self._folder / INDEX, self._index)
        named = {shard["file"] for shard in self._index["shards"]}
        for path in self._folder.glob("shard-*.safetensors"):
            if path.name not in named:
                path.unlink()


def read_index(folder: Path, plan: LatentPlan) -> dict[str, Any]:
    """The index of complete encodings; a `UserError` if they are missing, unfinished or of another
    architecture."""
    if not folder.is_dir():
        raise UserError(f"encodings {folder} do not exist: run synthesis.synthesis_mode=encoding first")
    index = _read_index(folder)
    header = index["header"]
    if header.get("format") != FORMAT:
        raise UserError(
            f"encodings {folder} have format {header.get('format')!r}, but this version reads {FORMAT}"
        )
    if header["architecture"] != architecture_hash(plan):
        raise UserError(
            f"encodings {folder} have another architecture than the run: they come from groups of "
            f"{_summary(header['latent_shapes'])}, the run has {_summary(latent_shapes(plan))}"
        )
    if not index["complete"]:
        raise UserError(f"encodings {folder} are unfinished: run synthesis.synthesis_mode=encoding again")
    return index


def identity(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """The identity of encodings, for the settings of outputs made from them."""
    digest = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    return {"path": str(folder), "sha256": digest}


def read_shard(folder: Path, entry: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays of a shard; a `UserError` if it is missing or damaged."""
    path = folder / entry["file"]
    try:
        content = plain_bytes(path)
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise UserError(
                f"encodings {path} do not match their sha256: run synthesis.synthesis_mode=encoding again"
            )
        arrays = dict(safetensors.numpy.load(content))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"encodings {path} cannot be read ({error}): run synthesis.synthesis_mode=encoding again"
        ) from error
    if any(len(array) != len(entry["keys"]) for array in arrays.values()):
        raise UserError(f"encodings {path} do not belong to the {len(entry['keys'])} pictures in the index")
    return arrays


def latent_shapes(plan: LatentPlan) -> dict[str, list[int]]:
    """[H, W, Z] of every latent group under its canonical name."""
    return {group_name(group): list(plan.latent_shape(group, 1)[1:]) for group in range(len(plan.groups))}


def _read_index(folder: Path) -> dict[str, Any]:
    """The index, with all types checked; version 0.1.0 wrote it without a checksum."""
    index, _ = read_sealed_json(folder / INDEX, "encodings")
    if not _is_index(index):
        raise UserError(
            f"encodings: {folder / INDEX} is not an index of encodings: remove {folder} and run "
            "synthesis.synthesis_mode=encoding again"
        )
    result: dict[str, Any] = index
    return result


def _is_index(index: Any) -> bool:
    parts = {"header": dict, "complete": bool, "shards": list}
    if not isinstance(index, dict) or any(not isinstance(index.get(n), kind) for n, kind in parts.items()):
        return False
    header = index["header"]
    tables = [header.get(name) for name in ("latent_shapes", "kept")]
    if not all(isinstance(table, dict) for table in tables) or "architecture" not in header or not tables[0]:
        return False
    lists = [numbers for table in tables for numbers in table.values()]
    return all(isinstance(numbers, list) and all(map(_is_count, numbers)) for numbers in lists) and all(
        map(_is_entry, index["shards"])
    )


def _is_entry(entry: Any) -> bool:
    """Whether this describes a shard: a file of the folder, its checksum, batches and pictures."""
    if not isinstance(entry, dict):
        return False
    name, digest, keys = (entry.get(key) for key in ("file", "sha256", "keys"))
    return (
        isinstance(name, str)
        and Path(name).name == name
        and isinstance(digest, str)
        and _is_count(entry.get("batches"))
        and isinstance(keys, list)
        and all(isinstance(key, str) for key in keys)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _summary(shapes: Mapping[str, Sequence[int]]) -> str:
    first = "x".join(map(str, next(iter(shapes.values()))))
    last = "x".join(map(str, list(shapes.values())[-1]))
    return f"{len(shapes)} latents, {first} to {last}"
