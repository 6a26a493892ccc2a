"""What models refuse, in one line and in both twins."""

import sys
from importlib import import_module

import numpy as np
import pytest

from dioscuri import UserError
from tests.support.faces import LEFT, PICTURES

TWINS = ("torch", "jax")

HOSTILE = [
    ("vqgan", "encode", (PICTURES.astype(np.float32),), {}, "from 0 to .*; divide by 255"),
    (
        "vqgan",
        "encode",
        (PICTURES.repeat(3, -1),),
        {},
        r"uint8 \(N, 8, 8\[, 1\]\).* got uint8 \(5, 8, 8, 3\)",
    ),
    ("vqgan", "encode", ("cat.png",), {}, "got the text 'cat.png'"),
    ("vqgan", "decode", (np.full((1, 4, 4), 4096),), {}, "from 0 to 15; got numbers from 4096 to 4096"),
    ("vqgan", "decode", (np.zeros((1, 4, 4)),), {}, "got float64"),
    (
        "vqgan",
        "decode",
        (np.zeros((1, 4, 4), int),),
        {"steps": 3},
        "decode: option 'steps' is unknown; known: none",
    ),
    ("vqgan", "generate", (), {}, "a model of family 'vqgan' cannot generate: it can encode, decode"),
    ("vqgan", "bound", (PICTURES,), {}, "cannot bound"),
    ("maskgit", "generate", (), {"classes": [99]}, "holds 99: the model has 10 classes, counted from 0"),
    ("maskgit", "generate", (), {"classes": [1.5]}, "classes must be whole numbers"),
    ("maskgit", "generate", (3,), {"classes": [1, 2]}, "holds 2 classes for 3 pictures"),
    ("maskgit", "generate", (0,), {}, "n must be a whole number of at least 1, not 0"),
    ("maskgit", "generate", (1,), {"class": [1]}, r"generate: option 'class' is unknown"),
    ("maskgit", "generate", (1,), {"guidence_scale": 1.0}, r"did you mean 'guidance_scale'\?"),
    ("maskgit", "generate", (1,), {"steps": 0}, r"generate: \[synthesis\] steps must be at least 1, not 0"),
    ("maskgit", "generate", (1,), {"steps": 2.5}, "steps must be a whole number, not 2.5"),
    ("maskgit", "generate", (1,), {"temperature": "hot"}, "temperature must be a number or"),
    (
        "maskgit",
        "generate",
        (1,),
        {"sampler": "halto"},
        r"sampler cannot be 'halto' \(did you mean 'halton'\?\)",
    ),
    ("maskgit", "generate", (1,), {"steps": 3, "start_step": 3}, "start_step 3 must be below steps 3"),
    ("maskgit", "generate", (1,), {"temperature": float("nan")}, "temperature must be"),
    ("maskgit", "generate", (1,), {"texts": "a cat"}, "reads no text: leave it out"),
    ("maskgit", "generate", (1,), {"seed": -1}, "seed must be a whole number of at least 0, not -1"),
    ("maskgit", "generate", (1,), {"noise": {}}, "noise must have the arrays tokens, confidence; got "),
    ("maskgit", "generate", (1,), {"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ("maskgit", "generate", (10**15,), {}, "n must be at most 1000000000, not 1000000000000000"),
    ("maskgit", "generate", (1,), {"decode": "no"}, "decode must be True or False, not 'no'"),
    ("maskgit", "generate", (1,), {"every_step": 3}, "every_step must be True or False, not 3"),
    ("maskgit", "edit", (PICTURES,), {"classes": 1, "noise": 3}, "noise must have .*; got an int"),
    ("maskgit", "edit", (PICTURES,), {"decode": 0, "classes": 1}, "decode must be True or False, not 0"),
    ("maskgit", "generate", (1,), {"remask_rate": 0.3}, "remask_rate applies only if remask is 'cap' or"),
    ("maskgit", "inpaint", (PICTURES, LEFT), {"remask_rate": 0.3}, "applies only if remask is 'cap' or"),
    ("sundae", "generate", (1,), {"min_steps": 3, "early_stop": False}, "applies only if early_stop is True"),
    ("sundae", "inpaint", (PICTURES, LEFT), {"n": 2}, "'n'"),
    ("maskgit", "save", (None,), {}, "save takes a folder, not None"),
    ("maskgit", "draw_noise", ("generat", 2), {}, r"method 'generat' is unknown .* 'generate'\?"),
    ("maskgit", "draw_noise", ("generate", 0), {}, "rows must be a whole number of at least 1, not 0"),
    ("maskgit", "noise_specs", ("trace", 2), {}, "method 'trace' is unknown"),
    ("maskgit", "noise_specs", ("generate", -2), {}, "rows must be a whole number of at least 1, not -2"),
    ("maskgit", "generate", (np.ones((9, 9)),), {}, r"n must be a whole number .*, not array\(\[\[1"),
    ("maskgit", "inpaint", (PICTURES, LEFT), {}, "inpaint needs classes"),
    ("maskgit", "inpaint", (PICTURES, ~LEFT & LEFT), {"classes": 1}, "nothing would be filled"),
    ("maskgit", "inpaint", (PICTURES, LEFT[:4]), {"classes": 1}, "mask must be bool"),
    ("maskgit", "inpaint", (PICTURES, LEFT.astype(int)), {"classes": 1}, "got int64 .* mask > 0"),
    ("grey", "generate", (), {"classes": [1]}, "the model has no classes"),
    ("vae", "generate", (), {"classes": [1]}, "classes is given, but the model has no classes"),
    ("vae", "generate", (2,), {"temprature": 1}, r"'temprature' is unknown \(did you mean 'temperature'\?\)"),
    ("vae", "generate", (2,), {"temperature": -1}, "temperature must be a number from 0 to"),
    ("vae", "generate", (2,), {"temperature": [1, 1, 1, 1]}, "temperature: .* must be a number, 2 numbers"),
    ("vae", "generate", (2,), {"temperature": ("linear", 1, "x")}, "'linear', first, last.* not"),
    ("vae", "generate", (2,), {"temperature": 1e30}, "temperature must be a number from 0 to 1e.12"),
    ("vae", "draw_noise", ("interpolate", 2), {}, "method 'interpolate' is unknown"),
    ("vae", "draw_noise", ("generate", 2), {"n": 3}, "noise of generate: option 'n' is unknown"),
    ("vae", "generate", (2,), {"output": "median"}, "output cannot be"),
    ("vae", "decode", ({"z.9": PICTURES},), {}, r"latents: 'z.9' is unknown \(did you mean"),
    ("vae", "decode", ({"z.0": PICTURES},), {}, r"latents 'z.0' must be \(N, 4, 4, 4\)"),
    ("vae", "decode", ({"z.0": 1},), {}, r"latents 'z.0' must be \(N, 4, 4, 4\), all of one N; got \(\)"),
    ("vae", "decode", ({"z.0": np.zeros((0, 4, 4, 4))},), {}, r"must be .*; got \(0, 4, 4, 4\)"),
    ("vae", "decode", (PICTURES,), {}, "latents must be arrays by name"),
    ("vae", "traverse", (PICTURES, [0]), {"spread": np.float32(-1)}, "spread must be a number from 1e-06"),
    ("vae", "bound", (PICTURES,), {"samples": 0}, "samples must be a whole number of at least 1"),
    ("vae", "interpolate", (PICTURES[:2], PICTURES[:3]), {}, "a holds 2 pictures and b 3"),
    ("vae", "interpolate", (PICTURES[0], PICTURES[1]), {"n": 1}, "n must be a whole number of at least 2"),
    ("classifier", "classify", (PICTURES[:, :4],), {}, r"got uint8 \(5, 4, 8, 1\)"),
]


@pytest.mark.parametrize(("kind", "method", "given", "options", "says"), HOSTILE)
@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_input_is_refused_in_one_line(model, twin, kind, method, given, options, says):
    with pytest.raises(UserError, match=says) as refused:
        getattr(model(twin, kind), method)(*given, **options)
    assert "\n" not in str(refused.value)


def test_a_missing_framework_is_named_with_the_command_that_installs_it(monkeypatch):
    from dioscuri import twins

    monkeypatch.setattr(twins, "find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, "dioscuri.jax", raising=False)
    with pytest.raises(UserError, match=r"dioscuri\[jax\]") as refused:
        import_module("dioscuri.jax")
    assert "\n" not in str(refused.value)
