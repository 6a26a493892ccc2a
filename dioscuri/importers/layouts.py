"""Published layouts in which models are written, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.files import tensor_bytes
from dioscuri.checkpoint.pretrained import CONFIG, TENSORS
from dioscuri.files import replacing, write_json
from dioscuri.importers.titok import to_titok

Arrays = Mapping[str, np.ndarray]

Writer = Callable[[Any, Arrays], tuple[dict[str, Any], dict[str, np.ndarray]]]

LAYOUTS: dict[str, Writer] = {"titok": to_titok}
"""Project -> function from options and canonical weights to its configuration and weights; a `UserError`
names what its layout cannot express."""


def write_layout(folder: Path, layout: str, hparams: Any, weights: Arrays) -> None:
    """Write `config.json` and `model.safetensors` as the project publishes them."""
    config, published = LAYOUTS[layout](hparams, weights)
    with replacing(folder / TENSORS) as temporary:
        temporary.write_bytes(tensor_bytes(published))
    write_json(folder / CONFIG, config)
