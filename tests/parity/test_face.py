"""Trained models in Python: both twins open the same ones, compute the same and refuse the same."""

import copy
import pickle
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from dioscuri import UserError
from dioscuri.checkpoint import store
from dioscuri.checkpoint.makers import named
from dioscuri.families.vqgan import trained
from tests.support import faces
from tests.support.faces import LEFT, PICTURES

TWINS = ("torch", "jax")
KINDS = ("vqgan", "maskgit", "sundae", "grey", "vae", "classifier")


def dio(twin):
    return import_module(f"dioscuri.{twin}")


@pytest.mark.parametrize("kind", KINDS)
def test_both_twins_open_a_run_and_hold_its_averaged_weights(runs, model, kind):
    root = runs[kind] / "checkpoints"
    stored = store.load(root, store.load(root).info["best_step"]).state["ema"]
    for twin in TWINS:
        found = model(twin, kind)._network.weights()
        assert set(found) == {name for name in stored if not name.startswith("discriminator.")}
        for name, array in found.items():
            np.testing.assert_array_equal(array, stored[name], err_msg=f"{twin} {name}")


@pytest.mark.parametrize("twin", TWINS)
def test_raw_weights_and_any_step_can_be_chosen(runs, twin):
    averaged = dio(twin).load(runs["vae"])._network.weights()
    raw = dio(twin).load(runs["vae"], weights="raw", step="last")._network.weights()
    for name, array in averaged.items():
        np.testing.assert_array_equal(raw[name], array / 2)
    dio(twin).load(runs["vae"], step=faces.STEP - 2)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        dio(twin).load(runs["vae"], step=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": ["raw"]}, r"weights must be 'average' or 'raw', not \['raw'\]"),
        ({"weights": "ema"}, "weights must be 'average' or 'raw', not 'ema'"),
        ({"step": "newest"}, "step must be 'best', 'last' or the number of a checkpoint, not 'newest'"),
        ({"step": True}, "not True"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
        ({"dtype": "bfloat"}, r"did you mean 'bfloat16'\?"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"tokenizer": "logs-none"}, "takes no tokenizer: leave it out"),
    ],
)
@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_choice_is_one_line(runs, twin, options, says):
    with pytest.raises(UserError, match=says) as refused:
        dio(twin).load(runs["vae"], **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step": 7}, "step chooses a checkpoint of a run, but .*saved is none: leave it out"),
        ({"step": "last"}, "step chooses a checkpoint of a run"),
        ({"weights": "raw"}, "saved holds no raw weights beside these: leave weights out"),
        ({"revision": "main"}, "revision is one of a model on the hub, but .*saved is a folder here"),
    ],
)
@pytest.mark.parametrize("twin", TWINS)
def test_a_choice_that_nothing_reads_is_refused(model, tmp_path, twin, options, says):
    model("torch", "vae").save(tmp_path / "saved")
    with pytest.raises(UserError, match=says) as refused:
        dio(twin).load(tmp_path / "saved", **options)
    assert "\n" not in str(refused.value)


def test_nothing_is_saved_where_another_model_would_be_loaded(runs, model, tmp_path):
    with pytest.raises(UserError, match="is the folder of a run: save the model elsewhere"):
        model("torch", "vae").save(runs["vae"])
    assert not (runs["vae"] / "config.json").exists()
    model("torch", "maskgit").save(tmp_path / "saved")
    with pytest.raises(UserError, match="saved holds the tokenizer of another model"):
        model("torch", "vae").save(tmp_path / "saved")
    model("torch", "maskgit").save(tmp_path / "saved")
    assert dio("torch").load(tmp_path / "saved").family == "maskgit"


def test_what_is_no_model_is_one_line(runs, tmp_path):
    load = dio("torch").load
    (tmp_path / "file").write_text("x")
    for where, says in (
        (tmp_path, "holds no model: no run's hparams-<name>.cfg, no config.json and no model_index.json"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "logs-none", "there is no folder .*logs-none and no shipped model"),
        ("digits_vae_of_nobody", "there is no folder digits_vae_of_nobody"),
        (3, "not an int"),
    ):
        with pytest.raises(UserError, match=says):
            load(where)
    empty = tmp_path / "logs-empty"
    empty.mkdir()
    (empty / "hparams-empty.cfg").write_text((runs["vae"] / "hparams-vae.cfg").read_text())
    with pytest.raises(UserError, match="holds no checkpoint: train the run first"):
        load(empty)


def test_weights_that_are_not_finite_are_not_loaded(tmp_path):
    run = faces.write_run(tmp_path, "broken", faces.tiny.TINY, spread=np.nan)
    with pytest.raises(UserError, match=r"tensor '.*' of the averaged weights is not finite"):
        dio("torch").load(run)


def within_a_level(first, second):
    assert first.dtype == second.dtype == np.uint8
    assert abs(first.astype(int) - second).max() <= 1


def test_a_tokenizer_has_the_same_tokens_and_pictures_in_both_twins(model):
    tokens = {twin: model(twin, "vqgan").encode(PICTURES) for twin in TWINS}
    assert tokens["torch"].shape == (5, 4, 4)
    assert tokens["torch"].dtype == np.int32
    assert len(np.unique(tokens["torch"])) > 4
    np.testing.assert_array_equal(tokens["torch"], tokens["jax"])
    within_a_level(*[model(twin, "vqgan").decode(tokens["torch"]) for twin in TWINS])
    for given in (PICTURES / 255, [Image.fromarray(p[..., 0]) for p in PICTURES], PICTURES[..., 0]):
        np.testing.assert_array_equal(model("torch", "vqgan").encode(given), tokens["torch"])


CALLS = {
    "maskgit": {"steps": 4, "guidance_scale": 2.0, "temperature": 1.0},
    "sundae": {"steps": 4, "min_steps": 2},
}
HALTON = {"sampler": "halton", "steps": 3}


@pytest.mark.parametrize(
    ("kind", "options"), [*CALLS.items(), ("maskgit", HALTON)], ids=lambda x: str(x)[:12]
)
def test_recorded_noise_gives_both_twins_the_same_samples(model, kind, options):
    noise = model("torch", kind).draw_noise("generate", 3, seed=5, **options)
    made = {}
    for twin in TWINS:
        call = {"classes": [3, 7, 1], "noise": noise, **options}
        made[twin] = model(twin, kind).generate(decode=False, **call), model(twin, kind).generate(**call)
    np.testing.assert_array_equal(made["torch"][0], made["jax"][0])
    assert len(np.unique(made["torch"][0])) > 3
    within_a_level(made["torch"][1], made["jax"][1])
    filled = [
        model(twin, kind).inpaint(PICTURES[:3], LEFT, classes=3, noise=noise, decode=False, **options)
        for twin in TWINS
    ]
    np.testing.assert_array_equal(*filled)
    known = model("torch", kind).encode(PICTURES[:3])
    np.testing.assert_array_equal(filled[0][:, :, 2:], known[:, :, 2:])
    assert (filled[0][:, :, :2] != known[:, :, :2]).any()


@pytest.mark.parametrize("kind", CALLS)
def test_every_step_is_the_same_in_both_twins_and_the_last_is_the_picture(model, kind):
    call = {"classes": [3, 7], **CALLS[kind]}
    call["noise"] = model("torch", kind).draw_noise("generate", 2, seed=5, **CALLS[kind])
    steps = [model(twin, kind).generate(decode=False, every_step=True, **call) for twin in TWINS]
    np.testing.assert_array_equal(*steps)
    assert steps[0].shape == (2, 4, 4, 4)
    assert (steps[0][:, 0] != steps[0][:, -1]).any()
    np.testing.assert_array_equal(steps[0][:, -1], model("torch", kind).generate(decode=False, **call))
    film = model("torch", kind).inpaint(PICTURES[:2], LEFT, every_step=True, **call)
    assert film.shape == (2, 4, 8, 8, 1)
    known = model("torch", kind).encode(PICTURES[:2])
    again = model("torch", kind).inpaint(PICTURES[:2], LEFT, every_step=True, decode=False, **call)
    assert (again[:, :, :, 2:] == known[:, None, :, 2:]).all()


def test_batches_are_told_as_they_come(model):
    vae, told = model("torch", "vae"), []
    vae.on_batch = lambda done, rows: told.append((done, rows))
    try:
        vae.generate(5, batch_size=2)
    finally:
        vae.on_batch = None
    assert told == [(0, 5), (2, 5), (4, 5)]


def test_a_vae_computes_the_same_in_both_twins(model):
    noise = model("torch", "vae").draw_noise("encode", 5, seed=1)
    latents = [model(twin, "vae").encode(PICTURES, noise=noise) for twin in TWINS]
    for name, array in latents[0].items():
        np.testing.assert_allclose(latents[1][name], array, rtol=1e-4, atol=1e-4, err_msg=name)
    noise = model("torch", "vae").draw_noise("generate", 3, seed=2, output="mean")
    within_a_level(*[model(twin, "vae").generate(3, noise=noise, output="mean") for twin in TWINS])


@pytest.mark.parametrize("twin", TWINS)
def test_a_bound_is_made_of_its_terms(model, twin):
    bound = model(twin, "vae").bound(PICTURES, samples=4)
    np.testing.assert_allclose(bound.elbo, -(bound.reconstruction + bound.kl.sum(1)))
    assert bound.kl.shape == (5, 2)
    again = model(twin, "vae").bound(PICTURES, samples=4)
    np.testing.assert_array_equal(bound.importance, again.importance)
    one = model(twin, "vae").bound(PICTURES, samples=1)
    assert (one.reconstruction != bound.reconstruction).all()
    assert bound.bits_per_dim == pytest.approx(-bound.elbo.mean() / np.log(2) / 64)
    # More samples tighten the bound of Burda et al. on average.
    assert bound.importance.mean() > bound.elbo.mean()


@pytest.mark.parametrize("twin", TWINS)
def test_latents_that_are_missing_come_from_the_prior(model, twin):
    vae = model(twin, "vae")
    latents = {name: array for name, array in vae.encode(PICTURES).items() if name.startswith("z.")}
    whole = vae.decode(latents, output="mean")
    np.testing.assert_array_equal(whole, vae.decode(latents, output="mean", seed=9))
    partial = {"z.0": latents["z.0"]}
    drawn = [vae.decode(partial, output="mean", seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), jnp.asarray(0.5)])
def test_a_number_of_any_framework_is_a_number(model, number):
    vae, gen = model("torch", "vae"), model("torch", "maskgit")
    for call in (
        lambda half: vae.generate(2, temperature=half, output_temperature=half),
        lambda half: vae.generate(2, temperature=[half, 1]),
        lambda half: vae.traverse(PICTURES[0], [0], n=2, spread=half),
        lambda half: gen.generate(2, temperature=half),
        lambda half: gen.edit(PICTURES, classes=1, strength=half),
    ):
        np.testing.assert_array_equal(call(number), call(0.5))


@pytest.mark.parametrize("twin", TWINS)
def test_a_copy_is_a_model_of_its_own(model, twin):
    first = model(twin, "vqgan")
    tokens = first.encode(PICTURES)
    for second in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(second.encode(PICTURES), tokens)
        assert second.module is not first.module


@pytest.mark.parametrize("twin", TWINS)
def test_a_network_in_training_mode_samples_without_dropout(twin):
    model = dio(twin).new(
        "maskgit", **faces.SMALL, hidden_dropout=0.5, attention_dropout=0.5, codebook_size=16, grid=4
    )
    expected = model.generate(4, steps=2, decode=False)
    model.module.train()
    np.testing.assert_array_equal(model.generate(4, steps=2, decode=False), expected)
    if twin == "torch":
        assert all(part.training for part in model.module.modules())


@pytest.mark.parametrize("twin", TWINS)
def test_every_bit_of_a_seed_counts(model, twin):
    vae = model(twin, "vae")
    first, second = (vae.generate(4, seed=seed) for seed in (1, 2**32 + 1))
    assert (first != second).any()


def test_interpolation_has_both_ends_and_changes_on_the_way(model):
    vae = model("torch", "vae")
    film = vae.interpolate(PICTURES[0], PICTURES[1], n=5, seed=1)
    assert film.shape == (5, 8, 8, 1)
    ends = vae.decode(
        {name: array for name, array in vae.encode(PICTURES[:1], seed=1).items() if name[0] == "z"},
        output="mean",
    )
    np.testing.assert_array_equal(film[:1], ends)
    assert vae.interpolate(PICTURES[:2], PICTURES[2:4], n=3).shape == (2, 3, 8, 8, 1)


def test_a_classifier_agrees_with_its_logits_in_both_twins(model):
    made = [model(twin, "classifier").encode(PICTURES) for twin in TWINS]
    np.testing.assert_allclose(made[0]["logits"], made[1]["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        model("torch", "classifier").classify(PICTURES), made[0]["logits"].argmax(-1)
    )


@pytest.mark.parametrize("twin", TWINS)
def test_grey_levels_are_tokens_without_a_tokenizer(model, twin):
    grey = model(twin, "grey")
    tokens = grey.encode(PICTURES)
    assert tokens.shape == (5, 8, 8)
    assert abs(grey.decode(tokens).astype(int) - PICTURES).max() <= 255 // 15
    assert grey.generate(2, steps=2).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(("twin", "kind"), [("torch", "maskgit"), ("jax", "maskgit"), ("torch", "sundae")])
def test_options_of_a_call_hold_for_that_call_alone(runs, model, twin, kind):
    call = {"classes": [3, 7], "seed": 2, "decode": False}
    alone = dio(twin).load(runs[kind]).generate(**call)
    used = model(twin, kind)
    before = used.hparams
    used.generate(**call, **CALLS[kind], top_k=1)
    np.testing.assert_array_equal(used.generate(**call), alone)
    assert used.hparams is before
    assert (used.generate(**{**call, "seed": 3}) != alone).any()


def test_many_pictures_go_through_in_batches(model):
    tokenizer = model("torch", "vqgan")
    np.testing.assert_array_equal(tokenizer.encode(PICTURES, batch_size=2), tokenizer.encode(PICTURES))
    gen = model("torch", "maskgit")
    assert gen.generate(5, batch_size=2).shape == (5, 8, 8, 1)
    options = CALLS["maskgit"]
    noise = gen.draw_noise("generate", 5, **options)
    made = [gen.generate(5, noise=noise, batch_size=size, **options) for size in (2, 64)]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twin", TWINS)
def test_a_saved_model_opens_in_the_other_twin(model, tmp_path, twin, kind):
    saved, other = model(twin, kind), TWINS[1 - TWINS.index(twin)]
    saved.save(tmp_path / "mine")
    opened = dio(other).load(tmp_path / "mine")
    for name, array in saved._network.weights().items():
        np.testing.assert_array_equal(opened._network.weights()[name], array)
    assert opened.hparams.model == saved.hparams.model
    assert (opened.tokenizer is None) == (saved.tokenizer is None)
    if opened.tokenizer is not None:
        np.testing.assert_array_equal(
            opened.tokenizer._network.weights()["quantize.embedding.weight"],
            saved.tokenizer._network.weights()["quantize.embedding.weight"],
        )


def test_a_model_without_its_tokenizer_says_so_if_pictures_are_requested(runs, model, tmp_path):
    text = (runs["maskgit"] / "hparams-maskgit.cfg").read_text()
    alone = faces.write_run(tmp_path, "alone", text.replace("name = maskgit", "name = tiny").replace(
        f"tokenizer_path = '{runs['vqgan']}'", ""))  # fmt: skip
    load = dio("torch").load
    assert load(alone).generate(2, decode=False).shape == (2, 4, 4)
    with pytest.raises(
        UserError, match="has no tokenizer to make pictures of its tokens: give load tokenizer="
    ):
        load(alone).generate(2)
    model("torch", "vqgan").save(tmp_path / "vq")
    for tokenizer in (model("torch", "vqgan"), runs["vqgan"], tmp_path / "vq", str(tmp_path / "vq")):
        assert load(alone, tokenizer=tokenizer).generate(2).shape == (2, 8, 8, 1)
    with pytest.raises(UserError, match="is no tokenizer"):
        load(alone, tokenizer=runs["vae"])
    with pytest.raises(UserError, match="it is a jax model, this one a torch model"):
        load(alone, tokenizer=model("jax", "vqgan"))
    larger = faces.tiny_maskgit.write_tokenizer(tmp_path / "larger", codes=32)
    with pytest.raises(UserError, match="codebook_size is 16, but the tokenizer has 32"):
        load(alone, tokenizer=larger)


@pytest.mark.parametrize("twin", TWINS)
def test_another_dtype_changes_the_arithmetic(runs, twin):
    vq = dio(twin).load(runs["vqgan"], dtype="float64")
    precise = vq._network.run("reconstruct", {"image": PICTURES})["reconstruction"]
    assert precise.dtype == np.float64
    coarse = vq.to(dtype="bfloat16")._network.run("reconstruct", {"image": PICTURES})["reconstruction"]
    assert 1e-5 < abs(coarse - precise).max() < 0.05
    assert vq.hparams.train.precision == "bfloat16"


def test_a_saved_tokenizer_serves_as_the_tokenizer_of_a_run(runs, model, tmp_path):
    """It records its checkpoint as long as it is unchanged: then the run's tokens are its tokens."""
    saved, run = tmp_path / "vq", trained.open_tokenizer(runs["vqgan"])
    model("torch", "vqgan").save(saved)
    opened = trained.open_tokenizer(saved)
    assert named(opened) == named(run)
    for name, array in run.weights.items():
        np.testing.assert_array_equal(opened.weights[name], array)
    text = faces.with_tokenizer(faces.tiny_maskgit.TINY, saved)
    gen = dio("torch").load(faces.write_run(tmp_path, "prior", text))
    assert gen.generate(2).shape == (2, 8, 8, 1)


def test_a_tuned_tokenizer_is_another_one(runs, tmp_path):
    tuned = dio("torch").load(runs["vqgan"])
    next(tuned.module.parameters()).data.mul_(1.5)
    tuned.save(tmp_path / "vq")
    found, run = (trained.open_tokenizer(path) for path in (tmp_path / "vq", runs["vqgan"]))
    assert found.sha256 != run.sha256
    dio("torch").load(runs["vae"]).save(tmp_path / "vae")
    with pytest.raises(UserError, match="is a model of family 'hierarchical_vae'"):
        trained.open_tokenizer(tmp_path / "vae")
