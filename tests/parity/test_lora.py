"""Low-rank adapters: both twins train and apply the same ones, and nothing else changes."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest

from dioscuri.checkpoint.base_model import base_weights, open_base
from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.hparams.adapters import LoRA
from dioscuri.library.describe import Question, described, plan_facts, step_facts
from dioscuri.plans import lora
from dioscuri.plans.parameters import shapes
from dioscuri.run.sizes import held_bytes
from tests.parity import denoiser_cases, transformer_cases
from tests.parity import test_maskgit_training as masked_tokens
from tests.parity import test_metroplex_training as metroplex
from tests.parity import test_sundae_training as sundae
from tests.parity.option_cases import ROOT
from tests.support import denoisers, engines, tiny_maskgit, tiny_sundae, tiny_titok, transformers
from tests.support.adapters import trained_adapters, write_base
from torch_impl.layers.lora import adapt

TWINS = ("torch", "jax")
HOURGLASS = "model.depth=(0, 1, 0)"
SMALL = {
    "grid": 4,
    "codebook_size": 16,
    "target_res": 8,
    "channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_classes": 3,
}
CASES = [(m, case) for m in (transformer_cases, denoiser_cases) for case in m.CASES]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of a base for each family."""
    folder = tmp_path_factory.mktemp("bases")
    options = {
        "maskgit": tiny_maskgit.tiny(),
        "sundae": tiny_sundae.tiny(HOURGLASS),
        "metroplex": attention(),
        "titok": tiny_titok.tiny(),
    }
    return {family: write_base(folder / family, hparams) for family, hparams in options.items()}


def attention(*words):
    """Options of the smallest Metroplex with variational attention."""
    return metroplex.digits(*metroplex.ATTENTION, "model.enc_mode=ffn", "model.rezero=False", *words)


def small(twin, **options):
    """A small model of a twin, and its tokens (8, 4, 4) and classes (8,)."""
    dio = import_module(f"dioscuri.{twin}")
    rng = np.random.default_rng(0)
    model = dio.new("maskgit", seed=1, **{**SMALL, **options})
    return model, rng.integers(0, 16, (8, 4, 4)), rng.integers(0, 3, 8)


def drawn(model):
    """Tokens from recorded noise."""
    noise = model.draw_noise("generate", 6, steps=3)
    return model.generate(6, noise=noise, decode=False, steps=3)


@pytest.mark.parametrize(("module", "case"), CASES, ids=[case for _, case in CASES])
def test_every_transformer_has_adapters_on_attention_and_feed_forward(module, case):
    plan = module.make(case)[0]
    network, options = shapes(module.parameter_table(plan)), LoRA(rank=2)
    by_group = [lora.layers_with_adapters(network, (group,)) for group in lora.GROUPS]
    assert all(by_group)
    both = lora.layers_with_adapters(network, options.targets)
    assert set(both) == {name for names in by_group for name in names}
    assert not [name for name in both if "emb" in name or "adaLN" in name or "logits" in name]
    assert not [name for name in both if len(network[f"{name}.weight"]) != 2]
    queries = ("query.weight", "to_q.weight", "wq.weight", "qkv.weight")
    assert {name.removesuffix(".weight") for name in network if name.endswith(queries)} <= set(both)


@pytest.mark.parametrize(("module", "case"), CASES, ids=[case for _, case in CASES])
def test_every_adapter_is_a_part_of_what_the_network_computes(module, case):
    plan, weights, *arguments = module.make(case)
    harness = (transformers if module is transformer_cases else denoisers).Torch(plan, weights)
    layers = lora.layers_with_adapters(harness.shapes, ("attention", "feed_forward"))
    model = adapt(harness._model(), layers, LoRA(rank=2))
    ids, condition, noise = arguments
    model(harness._ids(ids), harness._all(condition), harness._all(noise))[0].sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    table = lora.adapter_table(harness.shapes, 2, ("attention", "feed_forward"))
    assert trained <= set(table)
    idle = {name for name in set(table) - trained if not name.startswith("critic.")}
    assert all(".to_q." in name for name in idle)  # attention of the hourglass to a single position


def test_unrolled_steps_on_adapters_agree_to_rounding(base):
    make = partial(engines.make_engine, options=tiny_sundae.tiny)
    words = ("lora.rank=3", "lora.alpha=6", "lora.dropout=0.2", HOURGLASS, f"lora.base={base['sundae']}")
    state = engines.assert_steps_agree(make, sundae.train, *words)
    assert all(lora.is_adapter(name) for group in ("model", "ema") for name in state[group])
    assert {name.partition(".")[2] for name in state["optimizer"]} == set(state["model"])
    # Attention of a single position has no gradient for its queries and keys.
    assert np.mean([np.abs(array).max() > 0 for array in state["model"].values()]) > 0.8


@pytest.mark.parametrize("name", ["metroplex", "titok"])
def test_steps_on_adapters_of_other_transformers_agree_to_rounding(base, name):
    """1x1 convolutions of maps, and queries, keys and values in one matrix."""

    def train(engine, steps):
        def noise_of(step):
            return engines.recorded_noise(engine, step)

        def scalars_of(step):
            return {"learning_rate": 1e-2, "beta": 1.0, "gamma": 0.0, "adversarial": 0.0}

        def batch_of(step):
            return {"image": engines.pictures(step)}

        return engines.run_steps(engine, steps, batch_of, scalars_of, noise_of)

    make = partial(engines.make_engine, options={"metroplex": attention, "titok": tiny_titok.tiny}[name])
    words = ("lora.rank=3", "lora.alpha=6", "lora.dropout=0.2", f"lora.base={base[name]}")
    state = engines.assert_steps_agree(make, train, *words)
    layers = {layer.partition(".lora_")[0] for layer in state["model"]}
    some = {
        "metroplex": {"bottom_up.blocks.0.attention.qkv", "top_down.blocks.1.feed_forward.convs.1"},
        "titok": {"encoder.transformer.0.attn", "decoder.transformer.0.attn.out_proj"},
    }
    assert some[name] < layers
    assert np.mean([np.abs(array).max() > 0 for array in state["model"].values()]) > 0.8


def test_ten_steps_have_the_same_falling_losses(base):
    options = ("lora.rank=4", "lora.dropout=0.1", "train.accumulation_steps=2")
    words = (*options, f"lora.base={base['maskgit']}")
    losses = {twin: masked_tokens.train(masked_tokens.make_engine(twin, *words), range(10)) for twin in TWINS}
    torch, jax = (losses[twin]["loss"] for twin in TWINS)
    np.testing.assert_allclose(jax, torch, rtol=1e-4)
    assert torch[-3:].mean() < torch[:3].mean()


@pytest.mark.parametrize("twin", TWINS)
def test_training_adapters_takes_at_most_seven_tenths_of_the_memory(twin):
    def counted(*words):
        hparams = tiny_maskgit.tiny("model.hidden_size=64", "model.intermediate_size=256", *words)
        plan = plan_facts(hparams, described(hparams))
        step = step_facts(hparams, Question(twin=twin, batch=2))["step"]
        return plan, {name: step[name] for name in ("state_bytes", "step_bytes")}

    (whole, whole_step), (adapted, adapted_step) = counted(), counted("lora.rank=4")
    n = adapted["adapter_parameters"]
    assert adapted["parameters"] == whole["parameters"]
    assert adapted["weights_bytes"] == whole["weights_bytes"] + 4 * n
    assert (adapted["average_bytes"], adapted["optimizer_bytes"]) == (4 * n, 8 * n)
    for name, taken in adapted_step.items():
        assert taken <= 0.7 * whole_step[name], name


@pytest.mark.parametrize("twin", TWINS)
def test_a_base_takes_two_bytes_a_parameter_in_bfloat16(base, twin):
    words = ("lora.rank=4", f"lora.base={base['maskgit']}")
    plain, half = tiny_maskgit.tiny(*words), tiny_maskgit.tiny(*words, "train.precision=bfloat16")
    size = sum(int(np.prod(shape)) for shape in family_of(plain).network_shapes(plain).values())
    assert held_bytes(plain) - held_bytes(half) == 2 * size
    held = [
        array for name, array in engines.engine_of(twin, half).frozen.items() if name.startswith(lora.BASE)
    ]
    assert sum(array.nbytes for array in held) == 2 * size


@pytest.mark.parametrize("twin", TWINS)
def test_adapters_are_tuned_saved_merged_and_taken_apart_again(twin, tmp_path):
    model, tokens, classes = small(twin)
    weights, before = model._network.weights(), drawn(model)
    model.add_adapter(4, alpha=8, dropout=0.1)
    tune(model, model.batch(tokens=tokens, classes=classes))
    tuned = drawn(model)
    assert (tuned != before).any()
    model.save_adapter(tmp_path / "adapter")
    model.merge_adapter()
    assert model.adapter is None
    np.testing.assert_array_equal(drawn(model), tuned)
    model.save(tmp_path / "merged")
    model.unmerge_adapter().remove_adapter()
    after = model._network.weights()
    assert all((after[name] == array).all() for name, array in weights.items())
    other = "jax" if twin == "torch" else "torch"
    fresh = small(other)[0].load_adapter(tmp_path / "adapter")
    assert (fresh.adapter.rank, fresh.adapter.scale) == (4, 2)
    np.testing.assert_array_equal(drawn(fresh), tuned)
    whole = import_module(f"dioscuri.{other}").load(tmp_path / "merged")
    for name, array in fresh.merge_adapter()._network.weights().items():
        np.testing.assert_array_equal(array, whole._network.weights()[name])


@pytest.mark.parametrize("name", ["metroplex", "titok"])
def test_adapters_of_other_transformers_open_in_the_other_twin(base, name, tmp_path):
    def encoded(model):
        noise = model.draw_noise("encode", 8) if name == "metroplex" else None
        return np.asarray(
            model.encode(engines.pictures(0), noise=noise)["mean.0"]
            if noise
            else model.encode(engines.pictures(0))
        )

    first, second = (import_module(f"dioscuri.{twin}").load(base[name]) for twin in TWINS)
    weights, before = first._network.weights(), encoded(first)
    trained_adapters(first.add_adapter(3, alpha=6))
    first.save_adapter(tmp_path / "adapter")
    adapted = encoded(first)
    assert (adapted != before).any()
    np.testing.assert_allclose(encoded(second.load_adapter(tmp_path / "adapter")), adapted, atol=1e-4)
    np.testing.assert_allclose(encoded(second.merge_adapter()), adapted, atol=1e-4)
    first.merge_adapter().unmerge_adapter().remove_adapter()
    assert all((first._network.weights()[name] == array).all() for name, array in weights.items())


def tune(model, batch):
    """Twenty steps of Adam on the parameters that are trained."""
    if model.twin == "torch":
        import torch

        trained = [p for p in model.module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=0.05)
        torch.manual_seed(0)
        for _ in range(20):
            model.loss(batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        return
    import jax
    import optax

    optimizer, state = optax.adam(0.05), model.state
    moments, gradient = optimizer.init(state), jax.jit(jax.grad(model.loss, has_aux=True))
    for step in range(20):
        grads, _ = gradient(state, batch, jax.random.key(step))
        updates, moments = optimizer.update(grads, moments, state)
        state = optax.apply_updates(state, updates)
    model.state = state


def test_a_shipped_model_is_a_base_by_its_name():
    hparams = load(ROOT / "egs" / "maskgit" / "digits.cfg", ["lora.rank=2", "lora.base=digits-maskgit"])
    weights = base_weights(hparams, family_of(hparams).network_shapes(hparams))
    shipped = import_module("dioscuri.torch").load("digits-maskgit")._network.weights()
    assert all((weights[name] == array).all() for name, array in shipped.items())
    with pytest.raises(UserError, match="digits-maskgot' does not exist"):
        open_base(load(ROOT / "egs" / "maskgit" / "digits.cfg", ["lora.rank=2", "lora.base=digits-maskgot"]))


def test_both_twins_have_the_same_loss_with_the_same_noise():
    losses = []
    for twin in TWINS:
        model, tokens, classes = small(twin)
        trained_adapters(model.add_adapter(3, dropout=0.4, targets=["attention", "wo"]))
        batch, noise = model.batch(tokens=tokens, classes=classes), model.draw_noise("train_step", 8)
        assert any(name.startswith(lora.NOISE) for name in noise)
        if twin == "torch":
            losses.append(float(model.loss(batch, noise=noise)[0].detach()))
        else:
            import jax

            loss = jax.jit(lambda state, noise: model.loss(state, batch, jax.random.key(0), noise=noise)[0])  # noqa: B023
            losses.append(float(loss(model.state, noise)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
