"""Both twins sample the originals' tokens in every step from the recorded noise."""

import numpy as np
import pytest

from dioscuri.families.sundae.denoising_options import Resampling
from dioscuri.families.sundae.training import make_sampling_schedule
from tests.golden.recorded import cases, padded
from tests.golden.recorded_sundae import INPAINT, SAMPLING, TEXT, condition_of, opened
from tests.support.sundae import resample
from tests.support.transformers import TWINS

KINDS = [SAMPLING, INPAINT]
OPTIONS = (
    "steps",
    "temperature",
    "end_temperature",
    "sample_proportion",
    "end_sample_proportion",
    "min_steps",
    "early_stop",
)


def options_of(call):
    """Options from the original's arguments; its stopping rule considers only resampled tokens."""
    given = {name: call[name] for name in OPTIONS if name in call}
    return Resampling(stop_rule="masked", **given)


def noise_of(inputs, steps, prefix=""):
    """Noise of all steps, padded for steps that the original did not reach."""
    names = {"tokens": "gumbel", "update": "update_rand"}
    return {ours: padded(inputs[prefix + name], 0, steps) for ours, name in names.items()}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(SAMPLING, INPAINT))
def test_every_token_of_every_step(name, case):
    run = opened(name, case)
    options = options_of(case.about["sample_call"])
    if "temperatures" in run.outputs:
        steps = make_sampling_schedule(options)
        np.testing.assert_allclose(steps.temperature, run.outputs["temperatures"], rtol=1e-6)
        np.testing.assert_allclose(steps.proportion, run.outputs["proportions"], rtol=1e-6)
    known = run.inputs.get("inpaint_mask")
    noise = noise_of(run.inputs, options.steps)
    actual = resample(run.twin, run.inputs["init_tokens"], noise, options, condition_of(run), known)
    executed = int(run.outputs["executed_steps"])
    np.testing.assert_array_equal(actual.tokens, run.outputs["final"])
    done = min(executed, len(run.outputs["tokens"]))
    np.testing.assert_array_equal(actual.steps[:done], run.outputs["tokens"][:done])
    np.testing.assert_array_equal(actual.taken, run.outputs["active"].sum(0))
    if known is not None:
        np.testing.assert_array_equal(actual.tokens[known], run.inputs["init_tokens"][known])


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(INPAINT))
def test_where_inpainting_begins(name, case):
    """Cells that a hole touches start with the recorded random tokens; logits of the first step."""
    run = opened(name, case)
    f, inputs = case.about["inpaint"]["f"], run.inputs
    for pixels, tokens in (("pixel_mask", "q_mask"), ("pixel_mask_block", "q_mask_block")):
        B, H, W = inputs[pixels].shape
        cells = inputs[pixels].reshape(B, H // f, f, W // f, f).all((2, 4))
        np.testing.assert_array_equal(cells, inputs[tokens])
    start = np.where(inputs["inpaint_mask"], inputs["codes"], inputs["fill_tokens"])
    np.testing.assert_array_equal(start, inputs["init_tokens"])
    run.close(run.twin.forward(start, condition_of(run))["logits"], "logits_step0")


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(TEXT))
def test_text(name, case):
    run = opened(name, case)
    options = options_of(case.about["constructor"]["sample"])
    noise = noise_of(run.inputs, options.steps, "sample/")
    actual = resample(run.twin, run.inputs["sample/init"], noise, options, {})
    np.testing.assert_array_equal(actual.tokens, run.outputs["sample/final"])
    seen = np.concatenate([run.inputs["sample/init"][None], actual.steps[:-1]])
    np.testing.assert_array_equal(seen, run.outputs["sample/inputs_per_step"])
