"""Both twins reproduce Meissonic's training program and its tables; the optimiser is PyTorch's."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import schedules
from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.editing import first_step, share_masked
from dioscuri.families.maskgit.meissonic import SINUSOID_FREQUENCIES, grid_positions, rotary_angles
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.families.token_models.masking_options import Masking, Sampling
from jax_impl.models.meissonic import sinusoidal as jax_sinusoidal
from jax_impl.objectives import masking as jax_masking
from jax_impl.samplers import confidence as jax_confidence
from tests.golden.recorded import cases
from tests.golden.recorded_meissonic import (
    LAST_TEMPERATURE,
    TABLES,
    TRAINING,
    flat,
    maps,
    opened,
    share_at_first,
)
from tests.golden.recorded_tokens import cross_entropy, mean_over_labelled
from tests.support.tiny_maskgit import tiny
from tests.support.transformers import TWINS
from torch_impl.models.meissonic import sinusoidal as torch_sinusoidal
from torch_impl.objectives import masking as torch_masking
from torch_impl.samplers import confidence as torch_confidence

PARTS = {
    "torch": (torch.from_numpy, torch_masking, torch_confidence, torch_sinusoidal),
    "jax": (jnp.asarray, jax_masking, jax_confidence, jax_sinusoidal),
}


@pytest.fixture(params=TWINS)
def twin(request):
    return request.param


def batch_of(case, tag, twin):
    """Masked tokens and condition of a recorded batch, both compared."""
    to_twin, masking, *_ = PARTS[twin]
    inputs, settings, outputs = case.inputs, case.settings, case.outputs
    noise = {"time": inputs[f"{tag}timesteps_uniform"], "order": inputs[f"{tag}permutation_uniform"]}
    masked = masking.mask_tokens(
        to_twin(inputs[f"{tag}image_tokens"]),
        {name: to_twin(array) for name, array in noise.items()},
        Masking(mask_schedule="cosine", min_masking_rate=settings["min_masking_rate"]),
        case.about["config"]["codebook_size"],
        settings["mask_token_id"],
    )
    case.close(masked.ratio, f"{tag}mask_prob")
    case.close(settings["timestep_factor"] * np.asarray(masked.ratio), f"{tag}model_timestep")
    np.testing.assert_array_equal(masked.inputs, flat(outputs[f"{tag}input_ids"]))
    np.testing.assert_array_equal(masked.labels, outputs[f"{tag}labels"])
    np.testing.assert_array_equal(np.asarray(masked.mask).sum(1), outputs[f"{tag}num_token_masked"])
    condition = {"text": inputs[f"{tag}encoder_hidden_states"], "pooled": inputs[f"{tag}cond_embeds"]}
    if tag == settings["tag_without_prompts"]:
        condition = dropped(case, tag, condition, twin)
    case.close(condition["text"], f"{tag}encoder_hidden_states_used")
    case.close(condition["pooled"], f"{tag}pooled_used")
    condition |= {"micro": inputs[f"{tag}micro_conds"], "timestep": inputs[f"{tag}timestep_as_recorded"]}
    return np.asarray(masked.inputs), np.asarray(masked.labels), condition


def dropped(case, tag, condition, twin):
    """The original's inverted sense: a sample whose uniform is below the probability is not dropped."""
    to_twin, masking, *_ = PARTS[twin]
    null = {"text": case.inputs["empty_embeds"], "pooled": case.inputs["empty_clip_embeds"]}
    uniform = -case.inputs[f"{tag}cond_dropout_uniform"].ravel()
    arrays = ({name: to_twin(array) for name, array in given.items()} for given in (condition, null))
    result = masking.drop_condition(*arrays, to_twin(uniform), -case.settings["cond_dropout_prob_pre"])
    return {name: np.asarray(value) for name, value in result.items()}


def loss_of(run, tag, ids, labels, condition):
    """The compared loss of a batch, and its gradients."""
    shape = (*labels.shape, run.plan.outputs)
    logits = run.twin.both(ids, condition, {"logits": np.zeros(shape, np.float32)})[0]["logits"]
    run.close(maps(logits, run.plan), f"{tag}logits")
    settings = run.case.settings["loss"]
    weights = mean_over_labelled(labels, settings["ignore_index"])
    loss, grad = cross_entropy(logits, labels, weights, settings["label_smoothing"])
    run.close(loss, f"{tag}loss")
    return loss, run.twin.both(ids, condition, {"logits": grad.astype(np.float32)})[1]


def optimizer_of(case, weights):
    """AdamW; weight decay acts on parameters whose names have none of the listed words."""
    settings = case.settings["optimizer"]
    words = settings["no_decay_if_name_contains"]
    undecayed = [name for name in weights if any(word in name for word in words)]
    assert set(undecayed) == set(settings["undecayed_parameters"])
    groups = [
        {"params": [weights[name] for name in weights if (name in undecayed) is still], "weight_decay": decay}
        for still, decay in ((False, settings["weight_decay"]), (True, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=settings["lr"], betas=settings["betas"], eps=settings["eps"])


def rates(case, step):
    """Learning rate and decay of the average in a step, compared."""
    base, settings = tiny(), case.settings
    schedule, ema = settings["lr_schedule"], settings["ema"]
    assert (schedule["name"], ema["use_ema_warmup"]) == ("cosine", False)
    optimizer = replace(
        base.optimizer,
        learning_rate=settings["optimizer"]["lr"],
        learning_rate_scheme="half_cosine",
        num_cycles=2 * schedule["num_cycles"],
        warmup_steps=schedule["num_warmup_steps"],
        decay_start=schedule["num_warmup_steps"],
        decay_steps=schedule["num_training_steps"] - schedule["num_warmup_steps"],
    )
    train = replace(
        base.train, ema_decay=ema["decay"], ema_update_after=ema["update_after_step"], ema_warmup="count"
    )
    rate, decay = schedules.learning_rate(step, optimizer), schedules.ema_decay(step, train)
    assert rate == pytest.approx(float(case.outputs["train_lr"][step]), rel=1e-6)
    assert decay == pytest.approx(float(case.outputs["train_ema_decay"][step]), rel=1e-6)
    return rate, decay


@pytest.mark.parametrize("case", cases(TRAINING))
def test_steps(twin, case):
    """Masks, losses, gradients, parameters and averages of consecutive steps."""
    settings = case.settings
    run = opened(TWINS[twin], case, (settings["token_side"],) * 2)
    loss_of(run, settings["tag_without_prompts"], *batch_of(case, settings["tag_without_prompts"], twin))
    weights = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in run.weights.items()}
    averages, optimizer = dict(run.weights), optimizer_of(case, weights)
    for step, tag in enumerate(settings["tags"]):
        loss, grads = loss_of(run, tag, *batch_of(case, tag, twin))
        run.close(loss, "train_losses", case.outputs["train_losses"][step])
        for name, parameter in weights.items():
            parameter.grad = torch.tensor(grads[name])
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), settings["max_grad_norm"])
        expected = case.outputs["train_grad_norm_before_clip"][step]
        run.close(norm, "train_grad_norm_before_clip", expected, "gradients")
        clipped = f"{tag}clipped_grad:"
        for name in (name for name in case.outputs if name.startswith(clipped)):
            run.close(weights[name.removeprefix(clipped)].grad, name, tolerance="gradients")
        rate, decay = rates(case, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        run.twin.weights = {name: parameter.detach().numpy() for name, parameter in weights.items()}
        averages = {
            name: decay * averages[name] + (1 - decay) * array for name, array in run.twin.weights.items()
        }
    for prefix, actual in (
        (f"after{settings['steps']}:", run.twin.weights),
        (f"ema{settings['steps']}:", averages),
    ):
        for name in case.of_prefix(prefix):
            run.close(actual[name], prefix + name, tolerance="parameters_after_steps")


@pytest.mark.parametrize("case", cases(TABLES))
def test_numbers_of_masked_tokens(twin, case):
    to_twin, _, confidence, _ = PARTS[twin]
    for table in case.settings["mask_len"]:
        L, unknown = table["seq_len"], table["unknown_at_every_step"]
        options = Sampling(
            steps=table["num_inference_steps"],
            sampling_schedule=table["masking_schedule"],
            legacy_mask_count=True,
        )
        masked = np.arange(L)[None] < L * table["starting_mask_ratio"]
        steps = make_steps(options, L)
        counts = np.asarray(confidence.shared_counts(to_twin(steps.ratio), to_twin(masked)))[:-1, 0]
        counts = np.maximum(np.minimum(counts, unknown - 1), 1)
        np.testing.assert_array_equal(counts, case.outputs[table["output"]])
        if table["starting_mask_ratio"] == 1:
            counts = np.maximum(np.minimum(steps.masked[:-1, L], unknown - 1), 1)
            np.testing.assert_array_equal(counts, case.outputs[table["output"]])


@pytest.mark.parametrize("case", cases(TABLES))
def test_temperatures(case):
    for table in case.settings["temperatures"]:
        given = table["temperature"]
        pair = tuple(given) if isinstance(given, list) else (given, LAST_TEMPERATURE)
        options = Sampling(steps=table["num_inference_steps"], temperature=pair)
        case.close(make_steps(options, 1).temperature, table["output"])
    for name, times in case.of_prefix("timesteps:").items():
        np.testing.assert_array_equal(times, np.arange(int(name.removeprefix("T")))[::-1])


@pytest.mark.parametrize("case", cases(TABLES))
def test_start_of_image_to_image(case):
    tokens, uniform = (case.inputs[f"add_noise_{name}"].reshape(2, -1) for name in ("tokens", "uniform"))
    for table in case.settings["add_noise"]:
        T = table["num_inference_steps"]
        time = np.float32((T - table["timestep"]) / T)
        (ratio,) = schedules.mask_ratio(table["masking_schedule"], time[None])
        start = np.where(uniform < ratio, table["mask_token_id"], tokens)
        np.testing.assert_array_equal(start, case.outputs[table["output"]].reshape(2, -1))
    plan = make_plan(Transformer(), 4, 16)
    for table in case.settings["img2img_start"]:
        T, strength = table["num_inference_steps"], table["strength"]
        options = Sampling(steps=T, sampling_schedule="linear")
        first = first_step(options, strength, {}, "edit")
        assert (0 if first is None else T - first) == table["steps_run"]
        assert (None if first is None else T - 1 - first) == table["first_timestep"]
        if first is not None:
            options = replace(options, start_step=first)
            assert share_at_first(options, plan) == pytest.approx(table["add_noise_timestep"] / T)
            assert share_masked(options, plan) == pytest.approx(1 - first / T)


@pytest.mark.parametrize("case", cases(TABLES))
def test_encodings_of_time_and_place(twin, case):
    to_twin, *_, sinusoidal = PARTS[twin]
    settings = case.settings
    np.testing.assert_array_equal(SINUSOID_FREQUENCIES, case.outputs[settings["sinusoid"]["freqs"]])
    case.close(sinusoidal(to_twin(case.inputs[settings["sinusoid"]["values"]])), "sinusoid_256")
    for axes in settings["rope"]["axes"]:
        angles = rotary_angles(case.inputs[settings["rope"]["ids"]], tuple(axes)).repeat(2, 1)
        name = "_".join(map(str, axes))
        case.close(np.cos(angles), f"rope_cos:{name}")
        case.close(np.sin(angles), f"rope_sin:{name}")
    for name, grid in settings["img_ids"].items():
        factor = 2 if grid["grid"] == "half" else 1
        positions = grid_positions(grid["h"] // factor, grid["w"] // factor)
        np.testing.assert_array_equal(positions, case.outputs[name])
