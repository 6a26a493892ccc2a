"""Published layouts in which models are written, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.files import tensor_bytes
from dioscuri.checkpoint.pretrained import TENSORS, is_folder
from dioscuri.checkpoint.torch_files import torch_bytes
from dioscuri.errors import UserError
from dioscuri.families.maskgit.plan import MASK_FIRST
from dioscuri.files import replacing, write_json
from dioscuri.hub import CONFIG, INDEX
from dioscuri.importers.diffusers_layout import to_diffusers
from dioscuri.importers.maskbit_folders import to_maskbit
from dioscuri.importers.meissonic import to_meissonic
from dioscuri.importers.open_muse_layout import to_open_muse
from dioscuri.importers.titok import to_titok
from dioscuri.importers.titok_generators import to_titok_generator

Arrays = Mapping[str, np.ndarray]

Writer = Callable[[Any, Arrays], tuple[dict[str, Any], dict[str, np.ndarray]]]


def _titok(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A generator or a tokenizer of TiTok."""
    is_generator = hparams.model.architecture in MASK_FIRST
    return (to_titok_generator if is_generator else to_titok)(hparams, weights)


LAYOUTS: dict[str, Writer] = {
    "diffusers": to_diffusers,
    "maskbit": to_maskbit,
    "meissonic": to_meissonic,
    "open-muse": to_open_muse,
    "titok": _titok,
}
"""Project -> function from options and canonical weights to its configuration and weights; a `UserError`
names what its layout cannot express."""

FILES = {
    **dict.fromkeys(("meissonic", "diffusers"), "diffusion_pytorch_model.safetensors"),
    "open-muse": "pytorch_model.bin",
}
"""Names of files of weights that are not `model.safetensors`, by project."""
_WEIGHTS = (".safetensors", ".bin")


def check_target(folder: Path, layout: str) -> None:
    """Raise a `UserError` if a folder holds a run, weights that `load` would take for those to be written in
    a layout or, without one, a published model."""
    if any(folder.glob("hparams-*.cfg")):
        raise UserError(f"{folder} is the folder of a run: give another")
    published = (folder / INDEX).exists() or ((folder / CONFIG).exists() and not is_folder(folder))
    if published and not layout:
        raise UserError(f"{folder} holds a published model: give another folder")
    ours = FILES.get(layout, TENSORS)
    others = [path.name for path in sorted(folder.glob("*")) if path.suffix in _WEIGHTS and path.name != ours]
    if others:
        raise UserError(f"{folder} holds {others[0]}, weights of another model: give another folder")


def write_layout(folder: Path, layout: str, hparams: Any, weights: Arrays) -> None:
    """Write `config.json` and the file of weights as the project publishes them."""
    config, published = LAYOUTS[layout](hparams, weights)
    file = folder / FILES.get(layout, TENSORS)
    content = torch_bytes(published) if file.suffix == ".bin" else tensor_bytes(published)
    with replacing(file) as temporary:
        temporary.write_bytes(content)
    write_json(folder / CONFIG, config)
