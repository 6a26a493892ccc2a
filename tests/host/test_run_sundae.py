"""Host logic of SUNDAE."""

from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.contract import check_examples, check_options
from dioscuri.data.tokens import open_tokens
from dioscuri.engine import metric_names
from dioscuri.errors import UserError
from dioscuri.families.sundae import logic as sundae
from dioscuri.families.sundae.plan import make_plan
from dioscuri.families.sundae.training import make_sampling_schedule, metric_sizes
from dioscuri.families.token_models.checks import checked_split
from dioscuri.families.token_models.drawing import can_draw
from dioscuri.families.token_models.evaluation import evaluate
from tests.host.test_run_maskgit import examples_of
from tests.support.tiny_maskgit import CODES, GRID, write_tokenizer, write_tokens
from tests.support.tiny_sundae import tiny

PIXELS = ("data.dataset_source=digits", "data.grid=8", "data.codebook_size=17")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.labels=False"], r"\[data\] labels must be True"),
        (["synthesis.classes=[10]"], "classes holds 10: the model has 10 classes"),
        (
            ["synthesis.synthesis_mode=inpainting", "synthesis.inpaint_box=(3, 0, 2, 2)"],
            "inpaint_box .* extends beyond the 4x4",
        ),
        (["data.grid=5"], "needs a side divisible by 2"),
        (["model.depth=(1, (1, 1, 1), 1)", "model.shorten_factor=(4,)"], "1 factors for the 2 levels"),
        (
            ["model.depth=(1, (1, 1, 1), 1)", "model.shorten_factor=(4, 9)"],
            "has 2x2 there",
        ),
        (["model.shorten_factor=2"], "2 is not a square number"),
        (["model.depth=(1, 1)"], r"depth must be a whole number or"),
        (["data.dataset_source=digits"], "grey levels of 'digits' are the tokens: set"),
        ([*PIXELS, "data.channels=3"], "set channels=1"),
        (["data.text_length=7"], "reads no captions"),
        (["loss.unroll_weights=[1, 0, 0]"], "must be 2 numbers"),
        (["loss.unroll_weights=[0, 0]"], "not all 0"),
        (["synthesis.top_p=0"], "top_p must be above 0"),
        (["synthesis.steps=8", "synthesis.min_steps=9"], "min_steps 9 is above steps 8: give fewer, or"),
        (["model.dim_head=6"], "must be divisible by 4"),
        (["model.dim=16384", "model.depth=(1000, 1000, 1000)"], "parameters, more than"),
    ],
)
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        check_options(tiny(*overrides))


def test_tokens_that_do_not_fit_are_named(tmp_path):
    tokens = open_tokens(write_tokens(tmp_path / "tokens"))
    check_examples(examples_of(tiny(), tokens))
    for overrides, message in [
        (["data.grid=2"], "4x4 of 16 codes, not 2x2 of 16"),
        (["data.codebook_size=8"], "not 4x4 of 8"),
        (["model.num_classes=9"], "has class 9: raise it to 10"),
        ([f"data.tokenizer_path={write_tokenizer(tmp_path)}"], "at step unknown, not by the averaged"),
    ]:
        context = examples_of(tiny(*overrides), tokens)
        with pytest.raises(UserError, match=message):
            check_examples(context)
        with pytest.raises(UserError, match=message):
            checked_split(context, "test")


def test_what_can_be_drawn():
    assert not can_draw(tiny())
    assert can_draw(tiny(*PIXELS))
    check_options(tiny(*PIXELS))


def test_steps_go_from_the_first_to_the_last_value():
    options = tiny("synthesis.end_temperature=0", "synthesis.sample_proportion=0.25").synthesis
    steps = make_sampling_schedule(options)
    assert steps.temperature.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert steps.proportion.tolist() == [0.25] * 5


def test_logged_numbers():
    hparams = tiny()
    family = sundae.SundaeRun(SimpleNamespace(hparams=hparams, engine=None))
    metrics = dict.fromkeys(metric_names(metric_sizes(hparams.loss)), 0.0) | {"skips": 2, "accuracy": 0.5}
    logged = family.logged(metrics | {"unrolled.1": 3.0}, 1)
    assert logged["Unrolled/cross_entropy_1"] == 3.0
    assert logged["Losses/skips_count"] == 2 / 8
    assert family.headline(metrics) == "loss 0 nats, accuracy 50.0%, 2 updates skipped"


class Oracle:
    """An engine for evaluation."""

    def run(self, method, batch, **_options):
        assert method == "evaluate"
        self.batch = batch
        return {"cross_entropy": batch["mask"].mean(1), "accuracy": np.zeros(len(batch["mask"]))}


def test_evaluations_replace_the_same_tokens_by_the_same_codes():
    hparams = tiny()
    plan = make_plan(hparams.model, GRID, CODES)
    batch = {"tokens": np.zeros((4, GRID**2)), "index": np.arange(4), "valid": np.ones(4, bool)}
    seen = []
    for _ in range(2):
        oracle = Oracle()
        assert evaluate(oracle, [batch], plan, (0.5, 1.0), ema=True).by_ratio == {0.5: 0.5, 1.0: 1.0}
        seen.append(oracle.batch["replacement"])
    np.testing.assert_array_equal(*seen)
    assert seen[0].max() < CODES
    assert len(np.unique(seen[0])) > 8
