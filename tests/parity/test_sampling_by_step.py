"""Sampling as data: lists for each step, functions, partial grids, and the table of what each step did."""

import numpy as np
import pytest
from PIL import Image

from dioscuri import UserError
from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.outputs.pictures import enlarge, grid

TWINS = ("torch", "jax")
N, STEPS, GRID = 3, 4, 4
CLASSES = {"classes": [3, 7, 1], "decode": False}
COUNTS = [12, 12, 3, 0]


def noise_of(model, **options):
    return model.draw_noise("generate", N, seed=5, steps=STEPS, **options)


def test_lists_that_spell_out_a_schedule_change_nothing(model):
    opened = model("torch", "maskgit")
    plain = {"temperature": 2.0, "guidance_scale": 1.5, "guidance_schedule": "cosine", "steps": STEPS}
    steps = make_steps(opened._sampling(plain, "generate"), GRID**2)
    listed = {
        "steps": STEPS,
        "guidance_scale": 1.5,
        "mask_counts": steps.masked[:, -1],
        "temperature": steps.temperature,
        "guidance_schedule": (steps.guidance - 1) / 1.5,
    }
    noise = noise_of(opened)
    expected = opened.generate(noise=noise, **CLASSES, **plain)
    np.testing.assert_array_equal(opened.generate(noise=noise, **CLASSES, **listed), expected)
    functions = {
        name: (lambda step, values=values: values[step])
        for name, values in listed.items()
        if name not in ("steps", "guidance_scale")
    }
    np.testing.assert_array_equal(
        opened.generate(noise=noise, **CLASSES, **{**listed, **functions}), expected
    )
    other = opened.generate(noise=noise, **CLASSES, **{**listed, "temperature": [0, 0, 0, 0]})
    assert (other != expected).any()


def test_both_twins_follow_the_lists(model):
    options = {
        "steps": STEPS,
        "mask_counts": COUNTS,
        "temperature": [3.0, 1.0, 2.0, 0.0],
        "guidance_scale": 2.0,
        "guidance_schedule": [0.0, 1.0, 2.0, 0.5],
        "top_k": [0, 3, 5, 1],
        "top_p": [1.0, 0.9, 0.5, 1.0],
    }
    noise = noise_of(model("torch", "maskgit"))
    made = [model(twin, "maskgit").generate(noise=noise, **CLASSES, **options) for twin in TWINS]
    np.testing.assert_array_equal(*made)
    tables = [model(twin, "maskgit").trace(noise=noise, classes=[3, 7, 1], **options) for twin in TWINS]
    for rows in tables:
        assert [row["step"] for row in rows] == [0, 1, 2, 3]
        assert [row["masked_before"] for row in rows] == [16, 12, 11, 3]
        assert [row["masked_after"] for row in rows] == [12, 11, 3, 0]
        assert [row["written"] for row in rows] == [4, 1, 8, 3]
        assert [row["temperature"] for row in rows] == [3, 1, 2, 0]
        assert [row["guidance_scale"] for row in rows] == [0, 2, 4, 1]
        assert rows[0]["changed"] == 16
    assert tables[0] == tables[1]


LOOP = {"remask": "loop", "remask_rate": 0.5, "loop_t_on": 0.8, "loop_t_off": 0.3, "loop_alpha_on": 0.5}


def test_the_confidence_sampler_holds_the_masked_tokens_in_the_loop(model):
    """Of 16 tokens 8 are masked in the loop, other ones after each step, in both twins."""
    opened, options = model("torch", "maskgit"), {"steps": 8, "classes": [3, 7, 1], **LOOP}
    noise = opened.draw_noise("generate", N, seed=5, steps=8, **LOOP)
    rows = opened.trace(noise=noise, **options)
    assert [row["masked_after"] for row in rows] == [12, 8, 8, 8, 8, 6, 3, 0]
    assert [row["remask"] for row in rows] == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0]
    assert all(row["written"] > 0 for row in rows)
    made = [model(twin, "maskgit").generate(noise=noise, decode=False, **options) for twin in TWINS]
    np.testing.assert_array_equal(*made)


def test_a_model_is_sampled_as_masked_diffusion(model):
    """From a seed, with guidance and re-masking; every token becomes known."""
    opened = model("torch", "maskgit")
    options = {"sampler": "ancestral", "steps": 8, "guidance_scale": 1.0, "seed": 3, **LOOP}
    tokens = opened.generate(classes=[3, 7, 1], decode=False, **options)
    assert tokens.shape == (N, GRID, GRID)
    assert (tokens < 16).all()
    rows = opened.trace(classes=[3, 7, 1], **options)
    assert rows[-1]["masked_after"] == 0
    assert 4 < np.mean([row["masked_after"] for row in rows[2:6]]) < 12


def test_sundae_filters_by_step(model):
    """Lists and functions sample the same in both twins; a step with the most likely code alone draws it."""
    options = {"steps": STEPS, "early_stop": False, "sample_proportion": 1.0}
    listed = {"top_k": [0, 4, 1, 2], "top_p": [0.9, 1.0, 1.0, 0.6]}
    noise = model("torch", "sundae").draw_noise("generate", 2, seed=3, **options)
    given = {"classes": [3, 3], "noise": noise, "decode": False, **options}
    made = [model(twin, "sundae").generate(**given, **listed) for twin in TWINS]
    np.testing.assert_array_equal(*made)
    functions = {name: (lambda step, values=values: values[step]) for name, values in listed.items()}
    np.testing.assert_array_equal(model("torch", "sundae").generate(**given, **functions), made[0])
    assert (model("torch", "sundae").generate(**given) != made[0]).any()


@pytest.mark.parametrize(("kind", "suffix"), [("maskgit", ".gif"), ("sundae", ".webp")])
def test_a_film_and_a_table_of_the_steps(model, kind, suffix, tmp_path):
    opened = model("torch", kind)
    call = {"classes": [3, 7], "seed": 2, "steps": STEPS}
    pictures = opened.generate(**call, film=tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(pictures, opened.generate(**call))
    with Image.open(tmp_path / f"a{suffix}") as film:
        assert film.n_frames == STEPS or kind == "sundae"
        film.seek(film.n_frames - 1)
        shown = np.asarray(film.convert("L"))
    np.testing.assert_array_equal(shown, enlarge(grid([pictures[:1], pictures[1:]]))[..., 0])
    rows = opened.trace(**call)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[0]["running"] == 1
    assert rows[-1]["masked_after"] == 0
    scales = {"maskgit": ("guidance_scale", "remask"), "sundae": ("temperature", "sample_proportion")}
    assert set(scales[kind]) < set(rows[0])
    for name in ("a.mp4", f"{tmp_path}/a.gif/"):
        with pytest.raises(UserError, match=rf"film must be a file .gif, .png, .webp, not '{name}'"):
            opened.generate(**call, film=name)
    with pytest.raises(UserError, match="holds 99"):
        opened.generate(**{**call, "classes": [99, 7]}, film=tmp_path / "new" / "a.gif")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("sampler", ["halton", "halton_confidence", "scores"])
def test_every_sampler_follows_the_counts(model, sampler):
    rows = model("torch", "maskgit").trace(
        2, seed=1, sampler=sampler, steps=STEPS, mask_counts=[10, 6, 1, 0], randomize=False
    )
    assert [row["masked_after"] for row in rows] == [10, 6, 1, 0]


def test_sampling_starts_from_a_partial_grid(model):
    known = np.arange(N * GRID**2, dtype=np.int32).reshape(N, GRID, GRID) % 16
    start = np.where(np.arange(GRID)[None, :, None] < 2, -1, known)
    noise = noise_of(model("torch", "maskgit"))
    made = []
    for twin in TWINS:
        opened = model(twin, "maskgit")
        made.append(opened.generate(start=start, noise=noise, steps=STEPS, **CLASSES))
        np.testing.assert_array_equal(made[-1][:, 2:], known[:, 2:])
    np.testing.assert_array_equal(*made)
    assert (made[0][:, :2] != known[:, :2]).any()
    opened = model("torch", "maskgit")
    film = opened.generate(start=start, noise=noise, steps=STEPS, every_step=True, **CLASSES)
    np.testing.assert_array_equal(film[:, -1], made[0])
    assert opened.generate(start=start, classes=3, steps=2).shape == (N, 8, 8, 1)
    rows = opened.trace(start=start, classes=3, steps=2)
    assert rows[0]["masked_before"] == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask_counts": [3, 0]}, "mask_counts has 2 values for 4 steps: give one for each"),
        ({"mask_counts": [3, 4, 2, 0]}, r"mask_counts \[3, 4, 2, 0\] must fall, and end with 0"),
        ({"mask_counts": [3, 2, 1, 1]}, "must fall, and end with 0"),
        ({"mask_counts": [16, 2, 1, 0]}, "begins with 16, but a picture has 16 tokens"),
        ({"mask_counts": lambda step: step / 2}, "mask_counts must be a list of whole numbers"),
        ({"temperature": [1.0, 2.0, 3.0]}, "temperature has 3 values for 4 steps"),
        ({"guidance_scale": 1.0, "guidance_schedule": [1.0]}, "guidance_schedule has 1 values for 4 steps"),
        ({"guidance_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"top_k": [1, 2]}, "top_k has 2 values for 4 steps: give one for each"),
        ({"top_p": [0.5, 1.0, 0.0, 1.0]}, "top_p must be above 0"),
        ({"top_p": lambda step: 1 + step}, "top_p must be at most 1, not 2"),
        ({"mask_counts": [3, 2, 1, 0], "remask": "loop"}, "leave mask_counts out"),
        ({"remask": "rescal"}, "did you mean 'rescale'"),
        ({"remask": "cap", "remask_rate": 1.5}, "remask_rate must be at most 1, not 1.5"),
        ({"remask": "cap", "loop_t_on": 0.5}, "loop_t_on applies only if remask is 'loop'"),
        (
            {"remask": "loop", "loop_t_on": 0.1, "loop_t_off": 0.2},
            "loop_t_on 0.1 must be above loop_t_off 0.2",
        ),
        ({"sampler": "ancestral", "temperature": 1.0}, "temperature applies only if sampler is 'confidence'"),
        ({"start": np.zeros((N, GRID, GRID), int)}, "start: picture 0 has no token to sample"),
        ({"start": np.full((N, GRID, GRID), 16)}, r"whole numbers \(N, 4, 4\) below 16, -1 .* from 16 to 16"),
        ({"start": np.full((N, GRID), -1)}, r"got int64 \(3, 4\)"),
    ],
)
def test_wrong_lists_are_one_line(model, options, says):
    with pytest.raises(UserError, match=says) as refused:
        model("torch", "maskgit").generate(classes=3, **{"steps": STEPS, **options})
    assert "\n" not in str(refused.value)
