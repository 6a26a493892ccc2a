"""Training a tokenizer is the same in both twins: curves, buffers, and runs that
continue in the other twin."""

from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save

from dioscuri.families.vqgan.plan import codebook_name
from tests.support import engines
from tests.support.engines import assert_states_close, assert_states_equal, pictures, recorded_noise
from tests.support.tiny_vqgan import tiny

N = 100
START = 40  # step at which the discriminator begins
REVIVING = ("loss.revive_below=0.5", "loss.revive_decay=0.9")


make_engine = partial(engines.make_engine, options=tiny)


def train(engine, steps, *, start=START, metric="loss", batch=8):
    """Run the steps; return one metric of each."""
    results = []
    for step in steps:
        scalars = {"learning_rate": 0.002 * min(1, step / 5), "adversarial": float(step >= start)}
        scalars |= {"gumbel_temperature": 1 / (1 + step), "entropy_annealing": 2 / (1 + step)}
        image = {"image": pictures(step, batch)}
        engine.train_step(image, step, scalars, recorded_noise(engine, step, batch))
        results.append(engine.fetch_metrics()[metric])
    return np.array(results)


@pytest.fixture(scope="module")
def curves(users_compiler):
    with users_compiler():
        return {twin: train(make_engine(twin, *REVIVING), range(20), start=10) for twin in ("torch", "jax")}


def test_twenty_steps_have_the_same_losses(curves):
    np.testing.assert_allclose(curves["torch"], curves["jax"], rtol=1e-4)


def test_a_hundred_steps_have_the_same_losses(users_compiler):
    """In float64: after about thirty steps in float32, a vector lies so close to the middle of two codes that
    the twins, 1e-6 apart, choose different ones, and adversarial training diverges from there."""
    with users_compiler():
        engines = [make_engine(twin, "train.precision=float64", *REVIVING) for twin in ("torch", "jax")]
        curves = [train(engine, range(N)) for engine in engines]
    np.testing.assert_allclose(*curves, rtol=1e-4)
    assert curves[0][START - 5 : START].mean() < 0.6 * curves[0][:5].mean()


@pytest.mark.parametrize("start", [0, N])
def test_steps_in_float64_agree_to_rounding(start):
    states = {}
    for twin in ("torch", "jax"):
        engine = make_engine(twin, "train.precision=float64", *REVIVING)
        losses = train(engine, range(4), start=start)
        states[twin], states[f"{twin} losses"] = engine.state_to_numpy(), losses
    np.testing.assert_allclose(states["torch losses"], states["jax losses"], rtol=1e-9)
    assert_states_close(states["torch"], states["jax"], 1e-8)
    for name, array in states["torch"]["buffers"].items():
        np.testing.assert_allclose(array, states["jax"]["buffers"][name], rtol=1e-8, atol=1e-12)
    moved = states["torch"]["optimizer"]["exp_avg.discriminator.main.0.weight"]
    assert moved.any() == (start == 0)


def test_bfloat16_stays_near_float32(curves):
    for twin in ("torch", "jax"):
        losses = train(make_engine(twin, "train.precision=bfloat16", *REVIVING), range(3))
        np.testing.assert_allclose(losses, curves[twin][:3], rtol=1e-2)


@pytest.mark.parametrize(
    ("first", "second"), [("torch", "jax"), ("jax", "torch"), ("torch", "torch"), ("jax", "jax")]
)
def test_a_run_continues_in_either_twin(first, second):
    engine = make_engine(first, *REVIVING)
    train(engine, range(3), start=1)
    state = engine.state_to_numpy()
    assert set(state["buffers"]) == {"share", "candidates"}
    other = make_engine(second, "run.seed=99", *REVIVING)
    other.state_from_numpy(state)
    files = [{group: save(tensors) for group, tensors in s.items()} for s in (state, other.state_to_numpy())]
    assert files[0] == files[1]
    further = partial(train, steps=range(3, 8), start=1)
    np.testing.assert_allclose(further(engine), further(other), rtol=1e-4)
    if first == second:
        assert_states_equal(engine.state_to_numpy(), other.state_to_numpy())


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_dead_codes_become_encoder_outputs_of_the_batch(twin):
    engine = make_engine(twin, *REVIVING)
    K = engine.family.plan.codebook_size
    for step in range(30):
        before = engine.state_to_numpy()["model"][codebook_name(engine.family.plan)]
        train(engine, [step], start=N)
        state = engine.state_to_numpy()
        share, candidates = state["buffers"]["share"], state["buffers"]["candidates"]
        dead = share < 0.5 / K
        codebook = state["model"][codebook_name(engine.family.plan)]
        np.testing.assert_array_equal(codebook[dead], candidates[dead])
        assert not (codebook[~dead] == candidates[~dead]).all(1).any()
        if dead.any():
            break
    assert 0 < dead.sum() < K
    assert np.abs(codebook - before)[~dead].max() < np.abs(codebook - before)[dead].max()
    train(engine, [step + 1], start=N)
    # Codes that were reset restart at 1 / codes.
    assert (engine.state_to_numpy()["buffers"]["share"][dead] > 0.8 / K).all()


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_discriminator_and_tokenizer_leave_each_other_alone(twin):
    """Before its start the discriminator does not change; with adversarial weight 0 the tokenizer
    learns as if there were none."""
    plain, weightless = make_engine(twin), make_engine(twin, "loss.disc_weight=0")
    states = []
    for engine, start in ((plain, N), (weightless, 0)):
        before = engine.state_to_numpy()["model"]
        train(engine, range(3), start=start)
        states.append((before, engine.state_to_numpy()["model"]))
    for name in states[0][0]:
        (before, without), (_, with_it) = (
            [state[name] for state in states[0]],
            [state[name] for state in states[1]],
        )
        if name.startswith("discriminator."):
            np.testing.assert_array_equal(before, without)
            assert name.endswith(".bias") or (without != with_it).any(), name
        else:
            np.testing.assert_allclose(without, with_it, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_modes_agree_with_each_other(twin):
    engine = make_engine(twin)
    train(engine, range(3))
    image = {"image": pictures(0, 5)}
    made = engine.run("reconstruct", image, ema=True, step=0)
    tokens = engine.run("encode", image, ema=True, step=1)["tokens"]
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(made["tokens"], tokens)
    decoded = engine.run("decode", {"tokens": tokens}, ema=True, step=0)["image"]
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - made["image"]).max() <= 1
    actual = engine.run("evaluate", image, ema=True, step=0)
    np.testing.assert_allclose(actual["reconstruction"], made["reconstruction"])
    exact = np.abs(made["image"].astype(float) - image["image"]).mean((1, 2, 3)) / 255
    # Rounding to 8 bits, and clamping.
    np.testing.assert_allclose(made["reconstruction"], exact, atol=0.05)


CONTRASTIVE = (
    "model.architecture=dcvae",
    "model.hidden_channels=4",
    "model.channel_mult=[2, 1]",
    "model.quantizer=ema",
    "model.ema_debiased=True",
    "discriminator.type=dcvae",
    "discriminator.widths=[6, 4]",
    "loss.disc_loss=non_saturating",
    "loss.r1_cost=0.5",
    "loss.adaptive_disc_weight=False",
    "loss.contrastive_weight=0.5",
    "loss.alternating=True",
)
BITS = (
    "model.architecture=vqgan_plus",
    "model.num_res_blocks_decoder=2",
    "model.quantizer=lfq",
    "model.entropy_loss_ratio=0.1",
    "model.entropy_type=clamped",
    "model.entropy_gamma=1.5",
    "discriminator.type=vqgan+",
    "discriminator.num_layers=2",
    "discriminator.ndf=32",
    "loss.entropy_annealing_factor=2",
    "loss.reconstruction_weight=4",
    "loss.disc_factor=0.5",
    "loss.lecam_weight=0.5",
    "loss.lecam_decay=0.9",
)
OPTIONS = {
    "bits": BITS,
    "moving averages": ("model.quantizer=ema", *REVIVING),
    "dropout and entropy": ("model.dropout=0.3", "model.entropy_loss_ratio=0.1", "model.entropy_type=argmax"),
    "signs": ("model.quantizer=lfq", "model.entropy_loss_ratio=0.1", "model.pixel_range=signed"),
    "mixtures": ("model.quantizer=gumbel", "model.gumbel_temperature_steps=3"),
    "rounding": ("model.quantizer=fsq", "model.fsq_levels=[2, 2, 2, 2]", "loss.reconstruction=l2"),
    "blocks": (
        "model.architecture=metroplex",
        "model.channel_mult=[]",
        "model.enc_blocks='8d2,4'",
        "model.dec_blocks='4d2,8'",
        "model.custom_width_str='4:4'",
        "model.quantizer=ema",
        "model.ema_debiased=True",
        "loss.revive_below=0.5",
    ),
    "stages": (
        "discriminator.type=vqgan+",
        "discriminator.ndf=32",
        "loss.lecam_weight=0.1",
        "loss.lecam_decay=0.5",
        "loss.adaptive_disc_weight=False",
    ),
    "sequence of samples": (
        "model.architecture=titok",
        *("model.hidden_channels=0", "model.channel_mult=[]", "model.z_channels=0"),
        *("model.quantizer=gaussian", "model.num_embeddings=0", "loss.codebook_weight=0.001"),
        *("model.latent_tokens=3", "model.encoder_patch=4", "model.decoder_patch=4"),
        *(
            f"model.{side}_{name}={value}"
            for side in ("encoder", "decoder")
            for name, value in (("width", 8), ("layers", 1), ("heads", 2))
        ),
        "loss.lecam_weight=0.1",
    ),
    "contrastive": CONTRASTIVE,
    "contrastive by positions": (
        *CONTRASTIVE,
        "loss.alternating=False",
        "loss.patch_nce=False",
        "loss.disc_loss=hinge",
        "model.legacy_unused_biases=True",
        "discriminator.legacy_unused_biases=True",
        "discriminator.blocks_per_res=2",
        "model.num_res_blocks=2",
    ),
    "taming": (
        "model.architecture=taming",
        "model.attn_resolutions=[4]",
        "discriminator.type=stylegan",
        "discriminator.channel_multiplier=0.004",
        "loss.disc_loss=non_saturating",
        "loss.r1_cost=0.5",
        "loss.weight_decay=0.01",
    ),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_train_the_same_in_float64(options):
    states, losses = [], []
    for twin in ("torch", "jax"):
        engine = make_engine(twin, "train.precision=float64", *options)
        # With the adversary from the first step on, since earlier steps would be compiled separately.
        losses.append(train(engine, range(6), start=0))
        states.append(engine.state_to_numpy())
    np.testing.assert_allclose(*losses, rtol=1e-9)
    assert_states_close(*states, 1e-7)
    for name, array in states[0].get("buffers", {}).items():
        np.testing.assert_allclose(array, states[1]["buffers"][name], rtol=1e-7, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_codes_are_the_averages_of_what_they_quantised(twin):
    engine = make_engine(twin, *OPTIONS["moving averages"])
    revived = 0
    for step in range(20):
        train(engine, [step], start=N)
        state = engine.state_to_numpy()
        buffers, codebook = state["buffers"], state["model"][codebook_name(engine.family.plan)]
        dead = buffers["share"] < 0.5 / len(codebook)
        np.testing.assert_array_equal(codebook[dead], buffers["candidates"][dead])
        means = buffers["embedding_sum"] / buffers["cluster_size"][:, None]
        np.testing.assert_allclose(codebook[~dead], means[~dead], rtol=1e-3, atol=1e-4)
        revived += int(dead.sum())
    assert revived


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_micro_batches_equal_the_batch(twin):
    options = ("loss.disc_loss=hinge", "discriminator.norm=none")
    whole, split = make_engine(twin, *options), make_engine(twin, *options, "train.accumulation_steps=2")
    # Without an adversary, because the adaptive weight, a ratio of gradients, differs between micro-batches.
    losses = [train(engine, range(3), start=N) for engine in (whole, split)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_states_close(whole.state_to_numpy(), split.state_to_numpy(), 1e-4)


@pytest.mark.parametrize("alternating", [False, True])
def test_networks_that_alternate_have_a_norm_each_and_one_update_a_step(alternating):
    """The discriminator learns the same either way; the generator's gradient is that of the updated one."""
    clipped = ("optimizer.clip_gradient_norm=True", "optimizer.gradient_clip_norm_value=0.01")
    engine = make_engine("torch", *CONTRASTIVE, *clipped, f"loss.alternating={alternating}")
    before = engine.state_to_numpy()
    train(engine, [9], start=0)
    after = engine.state_to_numpy()
    assert after["counters"]["updates"] == 1
    norms = {True: 0.0, False: 0.0}
    for name, moment in after["optimizer"].items():
        if name.startswith("exp_avg."):
            norms["discriminator" in name] += np.square(moment / 0.5).sum()
    # The first moment is the clipped gradient times 1 - beta1.
    np.testing.assert_allclose(sum(norms.values()) ** 0.5, 0.01 * 2 ** (0.5 * alternating), rtol=1e-3)
    if alternating:
        np.testing.assert_allclose(norms[True], norms[False], rtol=1e-3)
    vectors = [state["buffers"]["u.encoder.conv_in"] for state in (before, after)]
    assert (vectors[0] != vectors[1]).any()
    sigma = after["buffers"]["sigma.encoder.conv_in"]
    np.testing.assert_array_equal(after["model"]["encoder.conv_in.sigma"], sigma)


def test_singular_values_are_followed():
    """After some steps the stored value is the kernel's largest singular value."""
    engine = make_engine("torch", *CONTRASTIVE)
    train(engine, range(30), start=99)
    model = engine.state_to_numpy()["model"]
    for name in ("encoder.conv_in", "encoder.blocks.0.conv2", "encoder.blocks.1.shortcut"):
        kernel = model[f"{name}.weight"]
        largest = np.linalg.svd(kernel.reshape(len(kernel), -1), compute_uv=False)[0]
        np.testing.assert_allclose(model[f"{name}.sigma"], largest, rtol=0.03)
