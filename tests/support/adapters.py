"""A small base model whose adapters are trained."""

import numpy as np

from dioscuri.checkpoint import pretrained
from dioscuri.contract import family_of
from dioscuri.face.model import face_of


def write_base(folder, hparams, seed=3):
    """Save the network of these options with initial weights; returns the folder."""
    weights = face_of(hparams.run.family).initial_weights(hparams, seed)
    assert weights.keys() == family_of(hparams).network_shapes(hparams).keys()
    pretrained.write_folder(folder, hparams, weights)
    return folder


def trained_adapters(model, seed=5, deviation=0.3):
    """The model whose adapters, initially without effect, have random weights."""
    rng = np.random.default_rng(seed)
    weights = model._network.weights()
    drawn = {
        name: rng.normal(0, deviation, array.shape).astype(np.float32)
        for name, array in sorted(weights.items())
        if ".lora_B." in name
    }
    model._set(model.adapter, {**weights, **drawn})
    return model
