"""Numbers of a call are arguments of JAX's compiled programs: other values compile nothing, and count."""

import numpy as np
import pytest

N, STEPS = 3, 4
GUIDED = {"guidance_schedule": "power_cosine", "guidance_power": 2.0}
CASES = {
    "confidence": (
        "maskgit",
        {},
        [
            *({}, {"temperature": 0.0}, {"temperature": [9.0, 0.0, 5.0, 1.0]}, {"logit_scale": [1.0, 9.0]}),
            *({"softmax_temperature": [5.0, 0.2]}, {"logit_scale": [1.0, 9.0], "logit_scale_warmup": 2}),
        ],
    ),
    "guidance": (
        "maskgit",
        {},
        [{"guidance_scale": 1.0}, {"guidance_scale": 500.0}, {"guidance_scale": 500.0, **GUIDED}],
    ),
    "re-masking": ("maskgit", {"remask": "cap"}, [{"remask_rate": 0.0}, {"remask_rate": 1.0}]),
    "scores": ("maskgit", {"sampler": "scores"}, [{"temperature": 0.0}, {"temperature": 9.0}]),
    "logits": (
        "maskgit",
        {"sampler": "logits"},
        [{}, {"temperature": 0.5}, {"temperature": 2.0, "legacy_softmax_temperature": True}],
    ),
    "halton": ("maskgit", {"sampler": "halton"}, [{}, {"logit_scale": [0.1, 9.0]}]),
    "top_p": ("maskgit", {}, [{"top_p": 0.9}, {"top_p": 0.1}, {"top_p": [1.0, 0.5, 1.0, 0.1]}]),
    "sundae": (
        "sundae",
        {},
        [
            *({}, {"temperature": 0.0}, {"end_temperature": 0.0}, {"sample_proportion": 0.1}),
            {"end_sample_proportion": 1.0},
        ],
    ),
    "sundae's top_p": ("sundae", {}, [{"top_p": 0.9}, {"top_p": 0.1}, {"top_p": [1.0, 0.5, 1.0, 0.1]}]),
    "sundae's argmax": (
        "sundae",
        {"sampler": "argmax_unrolled"},
        [{"sample_proportion": 0.0}, {"sample_proportion": 1.0}],
    ),
}


def programs(model):
    """How many programs a model of JAX has compiled."""
    return sum(jitted._cache_size() for jitted in model._network.runner.compiled.values())


@pytest.mark.parametrize(("kind", "fixed", "numbers"), CASES.values(), ids=CASES)
def test_other_numbers_run_the_same_program(model, kind, fixed, numbers):
    opened, reference = model("jax", kind), model("torch", kind)
    fixed = {"steps": STEPS, **fixed}
    call = {"classes": [3, 7, 1], "noise": reference.draw_noise("generate", N, seed=5, **fixed)}
    counts, made = [], []
    for options in numbers:
        made.append(opened.generate(decode=False, **call, **fixed, **options))
        counts.append(programs(opened))
        expected = reference.generate(decode=False, **call, **fixed, **options)
        np.testing.assert_array_equal(made[-1], expected)
    assert counts == [counts[0]] * len(numbers)
    assert len({tokens.tobytes() for tokens in made}) == len(numbers)


@pytest.mark.parametrize("kind", ["maskgit", "sundae"])
def test_what_changes_the_work_is_compiled_anew(model, kind):
    opened, before = model("jax", kind), None
    known = opened.generate(2, seed=1, steps=STEPS)
    mask = np.arange(8)[None] < np.full((8, 1), 4)
    for options in ({"steps": 3}, {"top_k": 2}, {"top_p": 0.5}):
        opened.inpaint(known, mask, classes=3, seed=1, temperature=1.0, **options)
        assert before is None or programs(opened) == before + 1
        before = programs(opened)
        opened.inpaint(known, mask, classes=3, seed=2, temperature=2.0, **options)
        assert programs(opened) == before


def test_a_vae_has_a_program_for_all_temperatures(model):
    opened, reference = model("jax", "vae"), model("torch", "vae")
    call = {"noise": reference.draw_noise("generate", N, seed=5, output="sample"), "output": "sample"}
    counts, made = [], []
    for options in ({}, {"temperature": 0.0}, {"output_temperature": 0.0}, {"output_temperature": 3}):
        made.append(opened.generate(N, **call, **options))
        counts.append(programs(opened))
        expected = reference.generate(N, **call, **options)
        assert np.abs(made[-1].astype(int) - expected).max() <= 1
    assert counts == [counts[0]] * len(made)
    assert len({pictures.tobytes() for pictures in made}) == len(made)
