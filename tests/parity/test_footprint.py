"""What `describe` tells of a training step is what the step takes, in both twins and for all families."""

import json
from dataclasses import replace
from importlib import import_module
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.cli.describe import main
from dioscuri.contract import family_run
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.library.describe import Question, step_facts
from dioscuri.places import examples
from dioscuri.plans.mesh import MeshShape
from dioscuri.registry import family_names
from dioscuri.run.steps import Step, check_step, described
from tests.support import engines, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan
from tests.support.networks import tiny_metroplex

TINY = {
    "hierarchical_vae": engines.tiny,
    "metroplex": tiny_metroplex,
    "vqgan": tiny_vqgan.tiny,
    "maskgit": tiny_maskgit.tiny,
    "sundae": tiny_sundae.tiny,
    "classifier": tiny_classifier.tiny,
}


def footprint(twin, hparams, batch=4, **options):
    return Step(hparams, twin).footprint(batch)


def test_every_family_is_measured():
    assert sorted(TINY) == family_names()


@pytest.mark.parametrize("family", TINY)
def test_both_twins_count_the_same_operations(family):
    from jax_impl import footprint as planning

    hparams = TINY[family]()
    engine, last = planning._PlannedEngine(hparams), hparams.train.total_train_steps
    scalars = family_run(SimpleNamespace(hparams=hparams, engine=engine)).scalars(last)
    traced, _ = engine.trace(described(hparams).rows, 4, last, scalars)
    # PyTorch counts the scores of attention twice in the backward pass, as its kernels compute them.
    assert planning._flops(traced.jaxpr.jaxpr) == pytest.approx(footprint("torch", hparams).flops, rel=0.04)


@pytest.mark.parametrize("family", ["classifier", "maskgit"])
def test_both_twins_hold_the_same_state(family):
    hparams = TINY[family]()
    torch, jax = (footprint(twin, hparams) for twin in ("torch", "jax"))
    vector = 4 * described(hparams).parameters
    assert jax.state == pytest.approx(4 * vector, rel=0.02)
    assert torch.state == pytest.approx(5 * vector, rel=0.02)  # it keeps the gradient, too
    assert torch.step > torch.state + torch.activations
    assert jax.step > jax.state


@pytest.mark.parametrize("family", TINY)
def test_planned_memory_is_that_of_real_tensors(family):
    from torch_impl import footprint as planning
    from torch_impl.engine import Engine

    hparams = Step(TINY[family](), "torch").hparams
    last = hparams.train.total_train_steps
    rows = {name: np.zeros((5, *shape), dtype) for name, (shape, dtype) in described(hparams).rows.items()}
    with planning.Memory(1) as memory:  # every byte belongs to the one row
        engine = Engine(hparams)
        scalars = family_run(SimpleNamespace(hparams=hparams, engine=engine)).scalars(last)
        memory.lines = []
        engine.train_step(rows, last, scalars)
    assert footprint("torch", hparams, 5).step == pytest.approx(memory.peak(1), rel=0.02)


@pytest.mark.parametrize("family", [family for family in TINY if family != "classifier"])
def test_recomputation_and_bfloat16_save_activations(family):
    hparams = TINY[family]()

    def activations(**options):
        changed = replace(hparams, train=replace(hparams.train, **options))
        return footprint("torch", changed, 64).activations

    plain = activations(checkpoint_activations=False, precision="float32")
    assert activations(checkpoint_activations=True, precision="float32") < plain
    assert activations(checkpoint_activations=False, precision="bfloat16") < plain


def test_devices_share_the_batch_and_nothing_else():
    hparams = tiny_vqgan.tiny()
    one, two = (Step(hparams, "torch", n).footprint(8 * n) for n in (1, 2))
    assert (two.state, two.activations) == (one.state, one.activations)
    assert two.step == one.step + 4 * described(hparams).parameters  # the buckets of the gradients


def test_what_devices_share_and_exchange_is_told():
    """SUNDAE with two unrolled passes: two gradients, averaged together unless each is scattered at once."""
    taken = {}
    for shard in ("none", "optimizer", "parameters"):
        hparams = tiny_sundae.tiny(f"train.shard={shard}", "loss.unroll_steps=2")
        taken[shard] = Step(hparams, "torch", 4).footprint(32)
    vector = 4 * described(hparams).parameters
    told = {
        shard: [(one.name, one.times, one.n_bytes, one.sent) for one in footprint.collectives]
        for shard, footprint in taken.items()
    }
    share = vector * 3 // 4
    assert told == {
        "none": [("all-reduce", 1, vector, 2 * share)],
        "optimizer": [("all-gather", 2, vector, 2 * share), ("reduce-scatter", 2, vector, 2 * share)],
        "parameters": [("all-gather", 4, vector, 4 * share), ("reduce-scatter", 2, vector, 2 * share)],
    }
    # Parameters, average, moments, gradient, and the copy that is gathered, of the first device's rows.
    shapes = described(hparams).shapes.values()
    rows = 4 * sum(-(-shape[0] // 4) * prod(shape[1:]) for shape in shapes)
    assert taken["none"].state - taken["optimizer"].state == 5 * vector - 6 * rows
    assert taken["parameters"].step < taken["optimizer"].step < taken["none"].step


def test_copies_of_the_state_exchange_shares_of_gradients():
    hparams = tiny_sundae.tiny("train.shard=parameters", "loss.unroll_steps=2")
    told = step_facts(hparams, Question(twin="torch", batch=32, mesh=MeshShape(data=4, shard=2)))["step"]
    two = step_facts(hparams, Question(twin="torch", batch=8, devices=2))["step"]
    assert (told["devices"], told["mesh"]) == (8, {"data": 4, "shard": 2})
    assert (told["state_bytes"], told["step_bytes"]) == (two["state_bytes"], two["step_bytes"])
    gather, scatter, between = told["collectives"]
    assert [gather, scatter] == two["collectives"]
    half = 4 * described(hparams).parameters // 2
    assert (between["name"], between["devices"], between["bytes"]) == ("all-reduce", 4, half)
    assert (between["times"], between["sent_bytes"]) == (2, 2 * 2 * half * 3 // 4)


def test_a_mesh_that_does_not_fit_is_one_line():
    shared = "train.shard=parameters"
    for words, message in (
        ((shared, "--mesh", "shard=4096"), "mesh data=1,shard=4096 does not fit the model: its parameters"),
        (("--mesh", "shard=2"), "mesh data=1,shard=2 spreads the state over 2 devices, but train.shard is"),
        ((shared, "--mesh", "data=4"), "mesh data=4,shard=1 spreads nothing, but train.shard is"),
        (("--mesh", "data=4", "--devices", "8"), "mesh data=4,shard=1 has 4 devices, not 8: leave one"),
        (("--mesh", "data=3", "--batch", "8"), "batch 8 must be a multiple of devices x acc"),
        ((shared, "train.shard_devices=3", "--devices", "4"), "shard_devices is 3, which does not divide"),
        (("--mesh", "model=2"), "--mesh 'model=2' is not a mesh"),
    ):
        with pytest.raises(UserError) as error:
            main(["egs/classifier/digits.cfg", *words])
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_python_tells_what_the_command_prints_and_changes_no_setting(twin, capsys, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # with it, an engine leaves the cache as it is
    dio = import_module(f"dioscuri.{twin}")
    before = settings()
    facts = dio.describe("egs/classifier/digits.cfg", batch=4, widths=[4, 6])
    assert settings() == before
    main(["egs/classifier/digits.cfg", "model.widths=[4,6]", "--batch=4", "--twin", twin, "--json"])
    printed = json.loads(capsys.readouterr().out)
    for told in (facts, printed):  # the process grows meanwhile
        del told["step"]["process_bytes"], told["step"]["device_bytes"]
    assert printed == facts
    assert facts["step"]["flops"] > 0
    for wrong, message in (({"batch": 0}, "batch must be"), ({"memory": "24"}, "not an amount of memory")):
        with pytest.raises(UserError, match=message):
            dio.describe("egs/classifier/digits.cfg", **wrong)


def test_a_model_is_described_and_the_largest_batches_fit(capsys):
    from dioscuri import torch as dio

    model = dio.new("egs/classifier/digits.cfg")
    facts = dio.describe(model, batch=4, memory="8GB")
    assert (facts["step"]["batch"], facts["fit"]["fits"]) == (4, True)
    for row in facts["fit"]["largest_batch"]:
        changed = {name: row[name] for name in ("precision", "checkpoint_activations")}
        hparams = replace(model.hparams, train=replace(model.hparams.train, **changed))
        step = Step(hparams, "torch")
        assert step.footprint(row["batch"]).peak + step.process <= 8 * 10**9
        assert step.footprint(row["batch"] * 103 // 100 + 1).peak + step.process > 8 * 10**9
    main(["egs/classifier/digits.cfg", "--memory", "1kB"])
    assert "does not fit into 1.0 kB a device" in capsys.readouterr().out


def settings():
    """Global settings of both frameworks that an engine may change."""
    import jax
    import torch

    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.get_default_device(),
        jax.config.jax_default_matmul_precision,
        jax.config.jax_enable_x64,
        jax.config.jax_compilation_cache_dir,
    )


def test_a_step_that_the_machine_cannot_hold_is_refused_with_the_bytes_that_are_lacking(monkeypatch):
    hparams = tiny_vqgan.tiny()
    step = Step(hparams, "torch")
    peak = step.footprint(hparams.train.batch_size).peak + step.process
    monkeypatch.setattr("dioscuri.run.steps.LARGE", 10**6)
    monkeypatch.setattr("dioscuri.run.steps.machine_bytes", lambda: peak)
    check_step(hparams, "torch")
    monkeypatch.setattr("dioscuri.run.steps.machine_bytes", lambda: peak - 1234)
    with pytest.raises(UserError, match=r"1,234 bytes are lacking"):
        check_step(hparams, "torch")


@pytest.mark.parametrize(
    ("name", "notes"),
    [("tatitok_bl32", 0), ("titok_l32_stage1", 1)],
)
def test_tokenizers_that_need_texts_or_another_tokenizer_are_described_without(name, notes):
    small = [
        f"model.{stack}_{size}"
        for stack in ("encoder", "decoder")
        for size in ("layers=1", "width=64", "heads=1")
    ]
    hparams = load(examples() / "vqgan" / f"imagenet256_{name}.cfg", [*small, "run.num_gpus=0"])
    step = Step(hparams, "torch")
    assert len(step.notes) == notes
    assert step.footprint(1).peak > 0
