"""Recorded cases of Metroplex's two programs: their numbers under our names and layouts."""

from pathlib import Path

import numpy as np

from dioscuri.hparams import load
from dioscuri.importers import metroplex
from dioscuri.importers.metroplex_json import cfg_text, options
from tests.golden.recorded import Case
from tests.support.models import Twin

KINDS = TENSORFLOW, FLAX = [("metroplex", runner) for runner in ("metroplex_tf", "metroplex_jax_vdvae")]


class Recorded:
    """A case of a model, with options converted from the original's JSON file as the command does."""

    def __init__(self, case: Case, scratch: Path) -> None:
        self.case, self.is_flax = case, case.kind == FLAX
        path = scratch / "hparams-converted.cfg"
        words = {"run.num_gpus": 0, "model.truncate_pixels": not self.is_flax}
        path.write_text(cfg_text({**options(self._config()), **words}, "converted"))
        self.hparams = load(path)
        self.inputs, self.outputs, self.close = case.inputs, case.outputs, case.close

    def _config(self) -> dict[str, object]:
        about = self.case.about
        if self.is_flax:
            return about["config"]
        config = {**about["json_config"], **about["overrides_after_prog_config"]}
        return {"dataset": {"image_size": about["resolved"]["data_scale"]}, **config}

    def use(self, twin: type[Twin]) -> Twin:
        """A twin with the recorded weights."""
        importer = metroplex.from_flax if self.is_flax else metroplex.from_tensorflow
        plan = twin(self.hparams, {}).plan
        self.plan, self.groups = plan, range(len(plan.groups))
        self.weights = importer(self.case.weights, self.hparams, plan, self.case.folder)
        return twin(self.hparams, self.weights)

    def name(self, original: str) -> str:
        """Canonical name of a parameter."""
        rules = metroplex.FLAX if self.is_flax else metroplex.TENSORFLOW
        name = metroplex.renamed(original, rules)
        return name.replace(".residual.", ".feed_forward.") if self.plan.transformer else name

    def noise(self, prefix: str, kind: str) -> dict[str, np.ndarray]:
        """Noise `<prefix>/<group>` under our names, in our layout."""
        arrays = {f"{kind}.{g}": self.inputs[f"{prefix}/{g:02}"] for g in self.groups}
        return arrays if self.is_flax else {name: nhwc(array) for name, array in arrays.items()}


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def as_recorded(tensor: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """A canonical tensor in the layout of the originals."""
    if tensor.ndim == 4 and expected.ndim == 4 and tensor.shape[0] != 1:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 4 and expected.ndim == 3:
        tensor = tensor[0].transpose(1, 2, 0)
    return tensor.reshape(expected.shape)
