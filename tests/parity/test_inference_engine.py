"""The engine of inference takes the memory of the weights: no optimiser, no second copy, no discriminator."""

import tracemalloc
from importlib import import_module
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.face.model import face_of, open_network
from dioscuri.registry import family_names
from dioscuri.restore import load_weights
from tests.support import engines, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan
from tests.support.loads import Load
from tests.support.memory import watched
from tests.support.networks import tiny_metroplex

TINY = {
    "hierarchical_vae": engines.tiny,
    "metroplex": tiny_metroplex,
    "vqgan": tiny_vqgan.tiny,
    "maskgit": tiny_maskgit.tiny,
    "sundae": tiny_sundae.tiny,
    "classifier": tiny_classifier.tiny,
}
TWINS = ("torch", "jax")
JAX_METHODS = {"classifier": ("encode",), "vqgan": ("decode",)}


def make(twin, hparams):
    return import_module(f"{twin}_impl.inference_engine").InferenceEngine(hparams)


def bytes_of_network(hparams):
    return 4 * sum(map(prod, family_of(hparams).network_shapes(hparams).values()))


def initial_state(hparams):
    from torch_impl.families.methods import methods_of

    return {"ema": methods_of(hparams).initial_parameters(0)}


def test_every_family_is_measured():
    assert sorted(TINY) == family_names()


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("family", TINY)
def test_the_engine_holds_the_network_alone(family, twin):
    """After the methods of the benchmark nothing is left but the weights; in JAX two that compile fast stand
    for all."""
    hparams = TINY[family]()
    load, state = Load(hparams, 2), initial_state(hparams)
    with watched(twin) as held:
        engine = make(twin, hparams)
        engine.state_from_numpy(state)
        for method in load.calls if twin == "torch" else JAX_METHODS.get(family, ()):
            load.call(engine, method)
    assert bytes_of_network(hparams) <= held.nbytes <= 1.1 * bytes_of_network(hparams)


@pytest.mark.parametrize("twin", TWINS)
def test_the_measurement_sees_an_optimiser(twin):
    hparams = TINY["vqgan"]()
    with watched(twin) as held:
        engine = engines.engine_of(twin, hparams)
        engine.initialise()
    assert held.nbytes > 4 * bytes_of_network(hparams)


@pytest.mark.parametrize("twin", TWINS)
def test_a_model_of_the_interface_holds_the_network_alone(twin):
    hparams = TINY["vqgan"]()
    face = face_of("vqgan")
    weights = face.initial_weights(hparams, 0)
    network = face.network_options(hparams)
    only = {name: weights[name] for name in face.parameter_shapes(network)}
    with watched(twin) as held:
        model = face(open_network(twin, network, only, None, {}))
        model.encode(np.zeros((2, *model.picture_shape), np.uint8))
    assert held.nbytes <= 1.1 * bytes_of_network(hparams)


def test_a_checkpoint_is_read_without_its_optimiser(tmp_path):
    """Weights of half a megabyte: the host reads them once, and keeps only the engine's copy."""
    hparams = TINY["classifier"]("model.widths=[64, 128]")
    engine = engines.engine_of("torch", hparams)
    engine.initialise()
    store.save(RunDirectory(tmp_path).checkpoints, 1, engine.state_to_numpy(), {}, keep=1)
    context = SimpleNamespace(
        hparams=hparams, directory=RunDirectory(tmp_path), engine=make("torch", hparams), say=print
    )
    size = bytes_of_network(hparams)
    tracemalloc.start()
    try:
        checkpoint = load_weights(context, averaged=True)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size <= now <= 1.2 * size
    assert peak <= 2.2 * size + 2**19  # beside the arrays, buffers of files
    assert checkpoint.state == {}


@pytest.mark.parametrize("twin", TWINS)
def test_weights_that_were_not_loaded_are_not_used(twin):
    hparams = TINY["classifier"]()
    load, engine = Load(hparams, 2), make(twin, hparams)
    engine.state_from_numpy({"model": initial_state(hparams)["ema"]})
    with pytest.raises(ValueError, match="the weights loaded are raw"):
        load.call(engine, "encode")
    (rows, arguments) = load.calls["encode"]
    raw = engine.run("encode", rows, ema=False, step=0, **arguments)
    assert np.isfinite(raw["logits"]).all()


def test_a_card_without_bfloat16_is_named(monkeypatch):
    """PyTorch says that such cards support it, since it emulates it."""
    import torch

    from jax_impl import devices as jax_devices
    from torch_impl import devices as torch_devices

    def supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Tesla T4 {device.type}")
    old = SimpleNamespace(compute_capability="7.5", device_kind="Tesla T4")
    card = torch.device("cuda", 0)
    message = "Tesla T4.* does not compute in it: set train.precision=float32"
    for check, device in ((torch_devices.check_precision, card), (jax_devices.check_precision, old)):
        check("float32", device)
        with pytest.raises(UserError, match=message):
            check("bfloat16", device)
    torch_devices.check_precision("bfloat16", torch.device("cpu"))
    for capability in ("8.0", "10.3", "gfx90a"):
        jax_devices.check_precision("bfloat16", SimpleNamespace(compute_capability=capability))
    jax_devices.check_precision("bfloat16", SimpleNamespace(device_kind="cpu"))
