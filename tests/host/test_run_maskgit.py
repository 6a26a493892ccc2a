"""Host logic of masked token models: fixed masks, conditions, logs, and invalid options."""
# ruff: noqa: ARG002 - the arguments are the protocol's

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dioscuri.contract import check_examples, check_options
from dioscuri.data.pipeline import evaluation_batches
from dioscuri.data.tokens import open_tokens
from dioscuri.engine import metric_names
from dioscuri.errors import UserError
from dioscuri.families.maskgit import logic as maskgit
from dioscuri.families.maskgit.training import BUCKETS, metric_sizes
from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.families.token_models.drawing import order
from dioscuri.families.token_models.evaluation import QualitySum, evaluate, evaluation_masks
from dioscuri.families.token_models.modes.inpainting import blended, unknown_tokens
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.hparams import load
from tests.support.data_options import make_options
from tests.support.tiny import write_tiny as write_vae
from tests.support.tiny_maskgit import CODES, GRID, tiny, write_tokenizer, write_tokens

L = GRID**2


def plan_of(hparams):
    return make_plan(hparams.model, hparams.data.grid, hparams.data.codebook_size)


def test_evaluation_masks_depend_on_the_picture_alone():
    indices, ratios = np.array([3, 900, 4]), np.array([0.5, 0.001, 1.0])
    masks = evaluation_masks(indices, ratios, L)
    assert masks.sum(1).tolist() == [8, 1, 16]
    np.testing.assert_array_equal(evaluation_masks(indices[::-1], ratios[::-1], L), masks[::-1])
    # A larger fraction masks more tokens, including those of a smaller one.
    fewer = evaluation_masks(indices, np.full(3, 0.25), L)
    assert (fewer[0] <= masks[0]).all()
    spread = evaluation_masks(np.arange(400), np.full(400, 0.5), L).mean(0)
    assert np.abs(spread - 0.5).max() < 0.1


class Oracle:
    """An engine that returns the fraction of masked tokens as cross-entropy."""

    def run(self, method, batch, *, ema, step):
        assert method == "evaluate"
        assert set(batch) == {"tokens", "label", "mask"}
        return {"cross_entropy": batch["mask"].mean(1), "accuracy": batch["label"] / 10}


def test_every_picture_counts_once_and_ratios_are_cycled(tmp_path):
    tokens = open_tokens(write_tokens(tmp_path, n=10))
    options = make_options("tokens", 8, 1, labels=True)
    seen = []
    quality = evaluate(
        Oracle(),
        evaluation_batches(tokens, options, batch_size=4),
        SimpleNamespace(n_tokens=L, replacements=0),
        (0.25, 0.5, 1.0),
        ema=True,
        on_batch=lambda: seen.append(1),
    )
    assert (quality.n, len(seen)) == (10, 3)
    assert quality.by_ratio == {0.25: 0.25, 0.5: 0.5, 1.0: 1.0}
    assert quality.cross_entropy == pytest.approx((4 * 0.25 + 3 * 0.5 + 3 * 1) / 10)
    assert quality.accuracy == pytest.approx(0.45)
    assert "45.0%" in str(quality)


def test_pictures_that_are_not_valid_do_not_count():
    total = QualitySum()
    found = {"cross_entropy": np.array([1.0, 9.0]), "accuracy": np.array([0.5, 0.0])}
    total.add(found, np.array([0.1, 0.9]), np.array([True, False]))
    assert total.mean().by_ratio == {0.1: 1.0}


def asked(first, n, *overrides):
    context = SimpleNamespace(hparams=tiny(*overrides))
    return {name: array.tolist() for name, array in order(context, first, n).items()}


def test_classes_are_cycled():
    assert asked(8, 5) == {"label": [8, 9, 0, 1, 2]}
    assert asked(1, 3, "synthesis.classes=[7, 2]") == {"label": [2, 7, 2]}
    assert asked(4, 2, "model.num_classes=0", "synthesis.guidance_scale=0") == {"index": [4, 5]}


inpainting = partial(tiny, "synthesis.synthesis_mode=inpainting")


def test_tokens_that_are_filled(tmp_path):
    hparams = tiny()
    middle = unknown_tokens(hparams, plan_of(hparams)).reshape(GRID, GRID)
    assert np.flatnonzero(middle.any(0)).tolist() == np.flatnonzero(middle.any(1)).tolist() == [1, 2]
    boxed = inpainting("synthesis.inpaint_box=(0, 1, 4, 2)")
    assert np.flatnonzero(unknown_tokens(boxed, plan_of(boxed))).tolist() == [1, 2, 5, 6, 9, 10, 13, 14]

    picture = np.zeros((8, 8), np.uint8)
    picture[:2, 6:] = 255  # the last token of the first row
    picture[4, 0] = 255  # if a quarter of a token is masked, all of it is resampled
    Image.fromarray(picture).save(tmp_path / "mask.png")
    masked = inpainting(f"synthesis.mask_path={tmp_path / 'mask.png'}")
    assert np.flatnonzero(unknown_tokens(masked, plan_of(masked))).tolist() == [3, 8]

    # A mask of a photograph's size is resized with it.
    photo, area = np.zeros((30, 50, 3), np.uint8), np.zeros((30, 50), np.uint8)
    area[29, 40:] = 255
    for name, array in (("photo", photo), ("area", area)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    both = inpainting(
        f"synthesis.mask_path={tmp_path / 'area.png'}", f"synthesis.image_path={tmp_path / 'photo.png'}"
    )
    assert np.flatnonzero(unknown_tokens(both, plan_of(both))).tolist() == [15]
    alone = inpainting(f"synthesis.mask_path={tmp_path / 'area.png'}")
    with pytest.raises(UserError, match="is 50x30 pixels, the pictures are 8x8"):
        unknown_tokens(alone, plan_of(alone))

    Image.fromarray(0 * picture).save(tmp_path / "black.png")
    Image.fromarray(np.full((8, 9), 255, np.uint8)).save(tmp_path / "large.png")
    for override, message in [
        ("synthesis.inpaint_box=(0, 0, 0, 2)", "is empty or extends beyond"),
        ("synthesis.inpaint_box=(2, 0, 3, 1)", "is empty or extends beyond"),
        (f"synthesis.mask_path={tmp_path / 'black.png'}", "no True or white pixel"),
        (f"synthesis.mask_path={tmp_path / 'large.png'}", "is 9x8 pixels, the pictures are 8x8"),
        (f"synthesis.mask_path={tmp_path / 'nothing.png'}", "mask_path .* cannot be used: No such file"),
        (f"synthesis.mask_path={tmp_path}", "cannot be used: Is a directory$"),
    ]:
        wrong = inpainting(override)
        with pytest.raises(UserError, match=message):
            unknown_tokens(wrong, plan_of(wrong))


def test_outpainting_fills_what_lies_outside():
    box = "synthesis.inpaint_box=(0, 1, 4, 2)"
    inside, outside = (inpainting(box, f"synthesis.outpaint={value}") for value in (False, True))
    masks = [unknown_tokens(options, plan_of(options)) for options in (inside, outside)]
    np.testing.assert_array_equal(masks[0], ~masks[1])
    whole = inpainting("synthesis.inpaint_box=(0, 0, 4, 4)", "synthesis.outpaint=True")
    with pytest.raises(UserError, match="covers everything, so nothing would be filled"):
        unknown_tokens(whole, plan_of(whole))


def test_pictures_are_blended_at_the_edge_alone():
    unknown = np.repeat([False, False, True, True], 4)
    originals, made = (np.full((2, 32, 32, 1), value, np.uint8) for value in (10, 210))
    np.testing.assert_array_equal(blended(originals, made, unknown, 0), made)
    column = blended(originals, made, unknown, 2)[1, :, 5, 0].astype(int)
    assert set(column[:8]) == {10}
    assert set(column[24:]) == {210}
    assert (np.diff(column) >= 0).all()
    assert 10 < column[15] < 110 < column[16] < 210


def test_logged_numbers_divide_sums_by_counts():
    family = maskgit.MaskGITRun(SimpleNamespace(hparams=tiny(), engine=None))
    metrics = dict.fromkeys(metric_names(metric_sizes()), 0.0) | {
        "skips": 2,
        "loss": 3.0,
        "cross_entropy": 2.5,
    }
    metrics |= {"correct": 3.0, "masked": 8.0, "bucket_loss.4": 6.0, "bucket_count.4": 2.0}
    logged = family.logged(metrics, 1)
    assert logged["Masked/accuracy"] == 3 / 8
    assert logged["Masked/share"] == 0.5
    assert {name: value for name, value in logged.items() if "Masked/cross" in name} == {
        "Masked/cross_entropy_40_50": 3.0
    }
    assert "Losses/critic" not in logged
    assert BUCKETS == 10
    assert "2 updates skipped" in family.headline(metrics)
    with_critic = maskgit.MaskGITRun(SimpleNamespace(hparams=tiny("model.critic=self"), engine=None))
    assert with_critic.logged(metrics | {"critic": 0.7}, 1)["Losses/critic"] == 0.7


def test_the_tokenizers_weights_are_the_averaged_ones(tmp_path):
    tokenizer = open_tokenizer(write_tokenizer(tmp_path))
    assert (tokenizer.plan.grid, tokenizer.plan.codebook_size) == (GRID, CODES)
    assert len(tokenizer.sha256) == 64
    assert max(np.abs(array).max() for array in tokenizer.weights.values()) > 0
    assert not any(name.startswith("discriminator") for name in tokenizer.weights)


def write_vae_run(folder):
    path = folder / "logs-tiny"
    path.mkdir()
    write_vae(path).rename(path / "hparams-tiny.cfg")
    return path


def untrained(folder):
    path = write_tokenizer(folder)
    for entry in (path / "checkpoints").iterdir():
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "does not exist"),
        (lambda folder: folder, "holds 0 files"),
        (write_vae_run, "is a run of family 'hierarchical_vae'"),
        (untrained, "holds no checkpoint"),
    ],
)
def test_folders_that_are_no_tokenizers_run(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        check_options(tiny(f"data.tokenizer_path={make(tmp_path)}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.labels=False"], r"\[data\] labels must be True"),
        (["synthesis.classes=[3, 10]"], r"classes holds 10: the model has 10 classes"),
        (["loss.cond_dropout_prob=0"], "guidance_scale needs a model"),
        (["data.labels=False", "model.num_classes=0"], "guidance_scale needs a condition"),
        (["loss.use_soft_code_target=True"], "use_soft_code_target needs pictures"),
        (["data.dataset_source=digits"], r"\[data\] tokenizer_path is empty"),
        (["model.num_attention_heads=3"], "not divisible"),
        (["model.hidden_size=16384", "model.num_hidden_layers=1024"], "parameters, more than"),
        (["loss.mask_schedule=cosines"], "cosines"),
        (["val.mask_ratios=[]"], "mask_ratios is empty"),
    ],
)
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        check_options(tiny(*overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.grid=2", r"\[data\] grid is 2, but the tokenizer .* has 4"),
        ("data.codebook_size=8", "codebook_size is 8"),
        ("data.target_res=16", "target_res is 16"),
        ("data.channels=3", "channels is 3"),
    ],
)
def test_a_tokenizer_that_makes_other_tokens_is_named(tmp_path, override, message):
    path = write_tokenizer(tmp_path)
    check_options(tiny(f"data.tokenizer_path={path}"))
    with pytest.raises(UserError, match=message):
        check_options(tiny(f"data.tokenizer_path={path}", override))


def examples_of(hparams, tokens):
    """A context whose splits are all the same tokens."""
    return SimpleNamespace(
        hparams=hparams, sets=SimpleNamespace(**dict.fromkeys(("train", "validation", "test"), tokens))
    )


def test_tokens_that_do_not_fit_are_named(tmp_path):
    tokens = open_tokens(write_tokens(tmp_path / "tokens"))
    check_examples(examples_of(tiny(), tokens))
    for override, message in [
        ("data.grid=2", "4x4 of 16 codes, not 2x2 of 16"),
        ("data.codebook_size=8", "not 4x4 of 8"),
        ("model.num_classes=9", "has class 9: raise it to 10"),
    ]:
        with pytest.raises(UserError, match=message):
            check_examples(examples_of(tiny(override), tokens))


def test_tokens_of_another_tokenizer_are_named(tmp_path):
    path = write_tokenizer(tmp_path)
    hparams = tiny(f"data.tokenizer_path={path}")
    own = open_tokens(write_tokens(tmp_path / "own", sha256=open_tokenizer(path).sha256))
    check_examples(examples_of(hparams, own))
    with pytest.raises(UserError, match="of the run 'tiny' at step unknown, not by the averaged"):
        check_examples(examples_of(hparams, open_tokens(write_tokens(tmp_path / "other"))))


def test_tokens_are_no_pictures(tmp_path):
    vae = load(write_vae(tmp_path), ["data.dataset_source=tokens"])
    with pytest.raises(UserError, match="family 'hierarchical_vae' needs pictures"):
        check_options(vae)
