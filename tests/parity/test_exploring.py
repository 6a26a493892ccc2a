"""Walks through latents and scores of pictures: both twins give the same from the same noise."""

from functools import cache
from importlib import import_module

import numpy as np
import pytest

from dioscuri import UserError
from tests.support import faces
from tests.support.faces import PICTURES
from tests.support.twins import ROOT

TWINS = ("torch", "jax")
SMALL = {"width": 8, "enc_blocks": "4x1,4d4,1x1", "dec_blocks": "1x1,4m1", "zdim": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of a twin and kind in a precision, opened once."""
    root = tmp_path_factory.mktemp("runs")
    runs = {"vae": faces.write_run(root, "vae", faces.tiny.TINY)}
    dio = {twin: import_module(f"dioscuri.{twin}") for twin in TWINS}
    dio["torch"].new(ROOT / faces.METROPLEX, seed=1, **SMALL).save(root / "metroplex")
    runs["metroplex"] = root / "metroplex"
    return cache(lambda twin, kind, dtype="float32": dio[twin].load(runs[kind], dtype=dtype))


def within_a_level(first, second):
    assert first.dtype == second.dtype == np.uint8
    assert first.shape == second.shape
    assert abs(first.astype(int) - second).max() <= 1


KINDS = pytest.mark.parametrize("kind", ["vae", "metroplex"])
CALLS = [
    ("interpolate", (PICTURES[:2], PICTURES[2:4]), {"n": 3, "path": "spherical"}),
    (
        "interpolate",
        (PICTURES[:2], PICTURES[2:4]),
        {"n": 3, "levels": [0], "rest": "prior", "temperature": 0.7},
    ),
    ("traverse", (PICTURES[:2], [(0, 1), 1]), {"n": 3, "rest": "prior", "output": "sample"}),
    ("mix", (PICTURES[:2], PICTURES[2:4]), {}),
]


@KINDS
@pytest.mark.parametrize(("method", "given", "options"), CALLS)
def test_the_same_noise_gives_both_twins_the_same_pictures(model, kind, method, given, options):
    reading = {"output": "sample"} if "output" in options else {}
    noise = model("torch", kind).draw_noise("encode", 2, seed=3, **reading)
    made = [getattr(model(twin, kind), method)(*given, noise=noise, **options) for twin in TWINS]
    within_a_level(*made)
    assert made[0].shape[0] == 2
    if kind == "vae":  # the prior of a new Metroplex is the same everywhere
        assert (made[0][:, 0] != made[0][:, -1]).any()
    if method == "interpolate":
        one = model("torch", kind).interpolate(PICTURES[0], PICTURES[2], seed=1, **options)
        two = model("torch", kind).interpolate(PICTURES[0], PICTURES[2], seed=1, **options)
        np.testing.assert_array_equal(one, two)


@KINDS
def test_scores_agree_in_float64(model, kind):
    reference = model("torch", kind, "float64")
    noise = [reference.draw_noise("reconstruct", 5)]
    noise += [reference.draw_noise("evaluate", 5, seed=k) for k in range(3)]
    scores = [model(twin, kind, "float64").score(PICTURES, samples=3, noise=noise) for twin in TWINS]
    for name in ("elbo", "reconstruction", "kl", "importance", "importance_error"):
        ours, theirs = (getattr(score, name) for score in scores)
        assert ours.dtype == np.float64
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9 * abs(ours).max(), err_msg=name)


@pytest.mark.parametrize("twin", TWINS)
def test_levels_from_the_prior_cost_nothing(model, twin):
    opened = model(twin, "vae")
    whole, upper = opened.bound(PICTURES, samples=2), opened.bound(PICTURES, samples=2, prior_levels=[1])
    assert (upper.kl[:, 1] == 0).all()
    assert (upper.kl[:, 0] != 0).any()
    none = opened.bound(PICTURES, samples=2, prior_levels=range(opened.plan.n_levels))
    assert (none.kl == 0).all()
    np.testing.assert_allclose(none.elbo, -none.reconstruction)
    assert (upper.reconstruction != whole.reconstruction).any()
    assert np.isfinite(upper.importance - whole.importance).all()
    if twin == "torch":  # in JAX one more program to compile
        assert opened.score(PICTURES, samples=1, prior_levels=1).kl[:, 1].max() == 0


def test_rows_of_scores_are_their_arrays(model):
    score = model("torch", "vae").score(PICTURES, samples=4)
    rows = list(score.rows())
    assert [row["negative_elbo"] for row in rows] == pytest.approx((-score.elbo).tolist())
    assert rows[2]["kl"] == score.kl[2].tolist()
    assert rows[2]["bits_per_dim"] == pytest.approx(-score.elbo[2] / 64 / np.log(2))
    assert rows[2]["importance_weighted_bound"] == -score.importance[2]
    assert rows[2]["standard_error"] > 0
    alone = next(model("torch", "vae").score(PICTURES[:1], samples=1).rows())
    assert alone["standard_error"] is None


def test_walks_of_one_picture_have_no_axis_of_pictures(model):
    vae = model("torch", "vae")
    assert vae.traverse(PICTURES[0], n=3).shape == (8, 3, 8, 8, 1)
    assert vae.mix(PICTURES[0], PICTURES[1], [0, 3]).shape == (2, 8, 8, 1)
    assert vae.top_variates(PICTURES, 2) == vae.top_variates(PICTURES)[:2]
    ends = vae.mix(PICTURES[:1], PICTURES[1:2], [0, 3], seed=4)[0]
    film = vae.interpolate(PICTURES[0], PICTURES[1], n=2, seed=4)
    np.testing.assert_array_equal(ends[::-1], film)


HOSTILE = [
    ("interpolate", (PICTURES[0], PICTURES[1]), {"levels": [2]}, "levels must be whole .* to 1, not 2"),
    (
        "interpolate",
        (PICTURES[0], PICTURES[1]),
        {"levels": "all"},
        "levels must be whole numbers .* not 'all'",
    ),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"path": "sferical"}, r"did you mean 'spherical'"),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"rest": "b"}, "rest must be 'held' or 'prior', not 'b'"),
    ("interpolate", (PICTURES[0], PICTURES[1, :4]), {}, r"b must be .* got uint8 \(4, 8, 1\)"),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"noise": {}}, "noise must have the arrays prior.0"),
    ("traverse", (PICTURES, [(9, 0)]), {}, "there is no group 9, the model has 3"),
    ("traverse", (PICTURES, [(0, 4)]), {}, "group 0 has 4 variates, counted from 0, but no variate 4"),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"n": 10**12}, "n must be at most 1000, not 10000000000"),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"rest": "prior"}, "rest 'prior' needs levels"),
    ("interpolate", (PICTURES[0], PICTURES[1]), {"temperature": 0.5}, "temperature .* give rest='prior'"),
    ("traverse", (PICTURES, [0]), {"temperature": [1, 0.5]}, "temperature .* give rest='prior'"),
    ("traverse", (PICTURES, []), {}, "variates must be pairs .*; got none"),
    ("traverse", (PICTURES, [0]), {"n": 1001}, "n must be at most 1000, not 1001"),
    ("traverse", (PICTURES,), {"spread": 0}, "spread must be a number from 1e-06 to 1000, not 0"),
    ("traverse", (PICTURES,), {"spread": 1e38}, "spread must be a number from 1e-06 to 1000"),
    ("mix", (PICTURES[:2], PICTURES[:3]), {}, "a holds 2 pictures and b 3"),
    ("mix", (PICTURES[:2], PICTURES[:2], [4]), {}, "cuts must be whole numbers of groups from 0 to 3, not 4"),
    ("score", (PICTURES,), {"samples": 0}, "samples must be a whole number of at least 1"),
    ("score", (PICTURES,), {"samples": 2, "noise": [{}]}, "noise must be a list of 3"),
    ("bound", (PICTURES,), {"prior_levels": [-1]}, "prior_levels must be whole numbers"),
    ("score", (PICTURES[:0],), {}, "it is empty"),
]


@pytest.mark.parametrize(("method", "given", "options", "says"), HOSTILE)
def test_what_cannot_be_walked_is_one_line(model, method, given, options, says):
    with pytest.raises(UserError, match=says) as refused:
        getattr(model("torch", "vae"), method)(*given, **options)
    assert "\n" not in str(refused.value)
