"""Recorded cases that a test changes before they are run."""

import json

import numpy as np
from safetensors.numpy import save_file

from tests.golden import test_efficient_vdvae
from tests.golden.recorded import ROOTS, Case
from tests.golden.recorded_vae import Recorded as RecordedVAE
from tests.support import models


class Copy:
    """A case that can be changed before it is written to a new folder."""

    def __init__(self, path):
        original = Case(ROOTS[0] / path)
        self.path, self.about = path, json.loads(json.dumps(original.about))
        self.weights, self.inputs, self.outputs = original.weights, original.inputs, original.outputs
        self.files = {
            file.name: file.read_bytes() for file in original.folder.iterdir() if file.suffix == ".cfg"
        }

    def set(self, path, value):
        """An entry of `case.json`, such as settings.partial.temperature."""
        *folders, leaf = path.split(".")
        node = self.about
        for folder in folders:
            node = node[folder]
        assert node[leaf] != value
        node[leaf] = value
        return self

    def say(self, old, new):
        """Change a number in the sentences of `case.json`."""
        text = json.dumps(self.about)
        assert old in text
        self.about = json.loads(text.replace(old, new))
        return self

    def write(self, folder):
        """The changed case."""
        (folder / "case.json").write_text(json.dumps(self.about))
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        save_file(self.weights, folder / self.about.get("weights", {}).get("file", "weights.safetensors"))
        for name in ("inputs", "outputs"):
            np.savez(folder / f"{name}.npz", **getattr(self, name))
        return Case(folder)


def vae(case, folder):
    recorded = RecordedVAE(case)
    test_efficient_vdvae.test_forward_losses_and_gradients(
        (recorded, models.Torch(recorded.hparams, recorded.weights))
    )


def vae_masked(case, folder):
    recorded = RecordedVAE(case)
    test_efficient_vdvae.test_masked_pass((recorded, models.Torch(recorded.hparams, recorded.weights)))
