"""Both twins reproduce Meissonic: its network, gradients and pipelines, step by step."""

import numpy as np
import pytest

from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.meissonic import grid_positions, sequence_angles
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.importers.diffusers import diffusers_tokenizer, from_diffusers_tokenizer
from tests.golden.recorded import cases, padded
from tests.golden.recorded_meissonic import (
    CONDITIONS,
    FORWARD,
    KINDS,
    PIPELINE,
    conditions_of,
    flat,
    maps,
    opened,
    sampling_of,
    share_at_first,
)
from tests.golden.recorded_tokens import cross_entropy, mean_over_labelled
from tests.golden.test_maskgit_samplers import gumbel
from tests.support import tokenizers
from tests.support.samplers import sample
from tests.support.transformers import TWINS

__all__ = ["KINDS"]
GRIDS = ("embed_out", "down_out", "up_out")


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


def hidden(run, name, array):
    """A recorded array's layout: grids are (B, C, h, w)."""
    return array.transpose(0, 3, 1, 2) if name in GRIDS else array


@pytest.mark.parametrize("case", cases(FORWARD))
def test_network(kind, case):
    """Every recorded intermediate, the loss and every gradient."""
    shape = (case.settings["height_tokens"], case.settings["width_tokens"])
    run, inputs = opened(kind, case, shape), case.inputs
    named = {argument: inputs[name] for argument, name in case.settings["call_arguments"].items()}
    condition = {ours: named[theirs] for theirs, ours in CONDITIONS.items() if theirs in named}
    condition["timestep"] = named["timestep"].astype(np.float32)
    ids, S = flat(named["hidden_states"]), condition["text"].shape[1]
    np.testing.assert_array_equal(named["img_ids"], grid_positions(*run.plan.hidden_shape))
    angles = sequence_angles(run.plan, S).repeat(2, 1)
    labels, settings = inputs["labels"], case.settings["loss"]
    weights = mean_over_labelled(labels, settings["ignore_index"])
    # The gradient at the recorded logits, so that one program computes everything.
    recorded = flat(case.outputs["logits"]).transpose(0, 2, 1)
    _, grad = cross_entropy(recorded, labels, weights)
    actual, gradients = run.twin.both(ids, condition, {"logits": grad})
    actual |= {"rope_cos": np.cos(angles), "rope_sin": np.sin(angles)}
    logits = actual.pop("logits")
    run.close(maps(logits, run.plan), "logits")
    for name in run.outputs:
        if not name.startswith("grad:") and name not in ("logits", "loss"):
            run.close(hidden(run, name, actual[name]), name)
    run.close(cross_entropy(logits, labels, weights)[0], settings["name"])
    recorded = case.of_prefix("grad:")
    assert set(gradients) == set(recorded)
    for name, array in recorded.items():
        run.close(gradients[name], name, array, "gradients")


def calls():
    """(case, tag) of every recorded call of a pipeline."""
    return [
        pytest.param(case, tag, id=f"{parameter.id}-{tag}")
        for parameter in cases(PIPELINE)
        for case in parameter.values
        for tag in case.settings["runs"]
    ]


@pytest.mark.parametrize(("case", "tag"), calls())
def test_pipelines(kind, case, tag):
    """The network's inputs and logits, the choices and the result of every step of a call."""
    call = case.settings["runs"][tag]
    shape = tuple(call[side] // call["vae_scale_factor"] for side in ("height", "width"))
    run, prefix, options = opened(kind, case, shape), call["output_prefix"], sampling_of(call)
    condition, null = conditions_of(case, call)
    first, steps = options.start_step, options.steps
    names = call["inputs"]
    noise = {
        "tokens": padded(gumbel(exponential=case.inputs[names["multinomial_exponential"]]), first, steps),
        "confidence": padded(gumbel(uniform=case.inputs[names["gumbel_uniform"]]), first, steps),
    }
    start = start_of(case, call, run.plan)
    actual = sample(run.twin, start, noise, options, condition, null, timed=True)
    recorded = {name: case.outputs[f"{prefix}{name}"] for name in RECORDED}
    np.testing.assert_array_equal(actual.inputs, flat(recorded["step_input_tokens"]))
    np.testing.assert_array_equal(actual.drawn, flat(recorded["pred_original_sample"]))
    masked = actual.inputs[1:] == run.plan.mask_id
    np.testing.assert_array_equal(masked, recorded["masking"])
    np.testing.assert_array_equal(actual.tokens, flat(recorded["tokens"]))
    schedule = make_steps(options, run.plan.n_tokens)
    case.close(schedule.temperature[first:-1], f"{prefix}temperature")
    np.testing.assert_array_equal(steps - 1 - np.arange(first, steps), recorded["model_timestep"])
    for k, when in ((0, "step0"), (-1, "last")):
        check_logits(run, condition, null, prefix, k, when, options)


RECORDED = ("step_input_tokens", "pred_original_sample", "masking", "tokens", "model_timestep")


def check_logits(run, condition, null, prefix, k, when, options):
    """The network's logits in a step: those without the prompt come first, if there is guidance."""
    ids = run.outputs[f"{prefix}model_input_ids"][k]
    both = condition
    if null is not None:
        both = {name: np.concatenate([null.get(name, array), array]) for name, array in condition.items()}
    time = np.array([run.outputs[f"{prefix}model_timestep"][k]], np.float32)
    run.close(both["micro"], f"{prefix}model_micro_conds")
    logits = run.twin.forward(flat(ids), {**both, "timestep": time})["logits"]
    run.close(maps(logits, run.plan), f"{prefix}model_logits_{when}")
    if null is not None:
        without, given = np.split(logits, 2)
        guided = without + (1 + options.guidance_scale) * (given - without)
        run.close(maps(guided, run.plan), f"{prefix}guided_logits_{when}")


def start_of(case, call, plan):
    """The tokens (B, L) with which a call begins."""
    names, shape = call["inputs"], (call["batch"], plan.n_tokens)
    if call["kind"] == "text2image":
        return np.full(shape, plan.mask_id)
    tokens = case.outputs["vq_tokens"].reshape(shape)
    if call["kind"] == "img2img":
        ratio = share_at_first(sampling_of(call), plan)
        return np.where(flat(case.inputs[names["add_noise_uniform"]]) < ratio, plan.mask_id, tokens)
    factor = call["vae_scale_factor"]
    mask = case.inputs[names["mask_image"]][:, 0, ::factor, ::factor].reshape(shape)
    return np.where(mask >= 0.5, plan.mask_id, tokens)


def with_tokenizer():
    return [parameter for parameter in cases(PIPELINE) if parameter.values[0].settings.get("uses_vqvae")]


@pytest.mark.parametrize("twin", tokenizers.TWINS)
@pytest.mark.parametrize("case", with_tokenizer())
def test_pictures(twin, case):
    """The tokenizer at both ends of a pipeline."""
    prefix = case.settings["weights_prefixes"]["vqvae"]
    weights = {
        name.removeprefix(prefix): array for name, array in case.weights.items() if name.startswith(prefix)
    }
    options, data = diffusers_tokenizer(case.settings["vqvae_config"])
    x = np.ascontiguousarray(case.inputs["image"].transpose(0, 2, 3, 1))
    plan = make_plan(options, x.shape[1], data["channels"])
    tokenizer = tokenizers.TWINS[twin](plan, from_diffusers_tokenizer(weights))
    stages = tokenizer.forward(x)
    case.close(stages["z"].transpose(0, 3, 1, 2), "vq_latents")
    np.testing.assert_array_equal(stages["indices"], case.outputs["vq_tokens"])
    for tag in case.settings["runs"]:
        made = tokenizer.decode_indices(case.outputs[f"{tag}_tokens"]).transpose(0, 3, 1, 2)
        case.close(made, f"{tag}_decoded_unclipped")
        case.close(made.clip(0, 1), f"{tag}_image")
