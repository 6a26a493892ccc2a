"""What the tabs of the demo do, and what its server refuses; the page in a browser is tested end to end."""

import asyncio
import json
from functools import cache
from importlib import import_module
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dioscuri import UserError
from dioscuri import torch as dio
from dioscuri.cli.demo import main
from dioscuri.demo import actions, pictures
from dioscuri.demo.controls import controls, given
from dioscuri.demo.exhibit import Exhibit
from dioscuri.demo.guard import Guard, is_served
from tests.support import faces
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder

PICTURE = faces.PICTURES[0]
LATENT_TABS = ("interpolate", "latents", "keep")
TABS = {
    "vqgan": ("reconstruct",),
    "maskgit": ("generate", "inpaint", "outpaint", "reconstruct", "twins"),
    "sundae": ("generate", "inpaint", "outpaint", "reconstruct", "twins"),
    "grey": ("generate", "inpaint", "outpaint", "reconstruct", "twins"),
    "vae": ("generate", "reconstruct", *LATENT_TABS, "twins"),
    "classifier": ("classify",),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return faces.runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def exhibit(runs):
    return cache(lambda kind: Exhibit(str(runs[kind]), "torch"))


@pytest.mark.parametrize("kind", TABS)
def test_only_what_a_model_can_do_is_shown(exhibit, kind):
    assert exhibit(kind).tabs == TABS[kind]


def test_clips_are_generated_and_compared():
    shown = Exhibit("film-metroplex", "torch")
    assert shown.tabs == ("generate", "twins")
    options = given(controls(shown), [control.default for control in controls(shown)])
    made = actions.generate(shown, 3, 5, {}, options, film=False)
    direct = shown.model.generate(3, seed=5)
    assert direct.shape == (3, 4, 12, 12, 3)
    np.testing.assert_array_equal(made.sheet, pictures.shown(direct))
    shown.models["jax"] = shown.model  # the other twin would take seconds to compile
    assert actions.compare(shown, 2, 5, {}, options).says.startswith("largest difference 0 of 255")


def test_pictures_are_those_of_the_python_interface(exhibit):
    shown = exhibit("maskgit")
    asked = actions.conditions(shown, 3, "3, 7", "")
    options = given(controls(shown), [control.default for control in controls(shown)]) | {"steps": 4}
    made = actions.generate(shown, 3, 5, asked, options, film=True)
    direct = shown.model.generate(classes=[3, 7, 3], seed=5, steps=4)
    np.testing.assert_array_equal(made.steps[:, -1], direct)
    np.testing.assert_array_equal(made.sheet, pictures.shown(direct))
    assert made.steps.shape == (3, 4, 8, 8, 1)
    assert (made.steps[:, 0] != made.steps[:, -1]).any()


def test_a_film_has_a_frame_for_every_step(exhibit, tmp_path):
    made = actions.generate(exhibit("sundae"), 2, 0, {}, {"steps": 3, "min_steps": 3}, film=True)
    with Image.open(pictures.save_steps(tmp_path, made.steps)) as film:
        assert film.format == "GIF"
        assert 1 < film.n_frames <= 6


def test_a_vae_takes_its_temperature_and_ignores_the_film(exhibit):
    shown = exhibit("vae")
    cold = actions.generate(shown, 2, 0, {}, {"temperature": 0.0, "output": "mean"}, film=True)
    again = actions.generate(shown, 2, 9, {}, {"temperature": 0.0, "output": "mean"}, film=False)
    np.testing.assert_array_equal(cold.sheet, again.sheet)
    assert cold.steps is None


def test_filling_leaves_known_tokens_alone(exhibit):
    shown = exhibit("grey")
    filled = actions.inpaint(shown, PICTURE, faces.LEFT, 2, 1, {}, {"steps": 3})
    direct = shown.model.inpaint(PICTURE[None].repeat(2, 0), faces.LEFT, seed=1, steps=3)
    np.testing.assert_array_equal(
        direct[:, :, 4:], shown.model.reconstruct(PICTURE[None])[:, :, 4:].repeat(2, 0)
    )
    assert filled.ndim == 3
    assert filled.dtype == np.uint8


def test_an_extended_picture_covers_whole_tokens():
    placed, mask = actions.outpaint(PICTURE, grid=4, share=0.6, across=1.0, down=0.0)
    assert not mask[:4, 4:].any()
    assert mask.sum() == 64 - 16
    np.testing.assert_array_equal(placed[:4, 4:], pictures.resized(PICTURE, 4))
    for share in (0.0, 1.0):  # something stays, and something is drawn
        mask = actions.outpaint(PICTURE, grid=4, share=share, across=0.5, down=0.5)[1]
        assert mask.any()
        assert not mask.all()


def test_the_first_latents_decide_what_stays(exhibit):
    shown = exhibit("vae")
    z = shown.model.encode(PICTURE[None], seed=3)
    everything = shown.model.decode({name: z[name] for name in z if name[0] == "z"}, output="mean")
    sheet, says = actions.keep(shown, PICTURE, 3, 2, 3, 1.0)
    np.testing.assert_array_equal(
        sheet, pictures.shown([PICTURE[None], *pictures.in_rows(everything.repeat(2, 0))], [["picture"]])
    )
    assert says == "the first 3 of 3 latent groups are those of the picture"
    assert (actions.keep(shown, PICTURE, 1, 2, 3, 1.0)[0] != sheet).any()


def test_a_shift_of_latents_changes_the_picture_and_none_does_not(exhibit):
    shown = exhibit("vae")
    call = {"keeps_later": True, "seed": 0}
    same = actions.change_latents(shown, PICTURE, 0, [0.0, 0.0], **call)
    shifted = actions.change_latents(shown, PICTURE, 0, [4.0, -4.0], **call)
    third = same.shape[1] // 3
    assert (shifted != same).any()
    np.testing.assert_array_equal(shifted[:, : 2 * third], same[:, : 2 * third])
    assert actions.groups(shown)[0] == "level 0 (4x4), group 0"


def test_reconstruction_interpolation_and_classes(exhibit):
    sheet, says = actions.reconstruct(exhibit("vae"), PICTURE)
    assert sheet.shape[2] == 3
    assert "bits/dim" in says
    assert "bits/dim" not in actions.reconstruct(exhibit("vqgan"), PICTURE)[1]
    film = actions.interpolate(exhibit("vae"), PICTURE, faces.PICTURES[1], 5)
    direct = exhibit("vae").model.interpolate(PICTURE, faces.PICTURES[1], n=5)
    np.testing.assert_array_equal(film, pictures.shown([direct]))
    shares = actions.classify(exhibit("classifier"), PICTURE)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == str(exhibit("classifier").model.classify(PICTURE[None])[0])


def test_a_typed_class_conditions_the_latents_of_a_picture(tmp_path):
    sizes = {"target_res": 8, "channels": 1, "width": 8, "depth": 1, "zdim": 2, "num_mixtures": 2}
    dio.new("metroplex", num_classes=3, cond_dropout_prob=0.0, **sizes).save(tmp_path / "classes")
    shown = Exhibit(str(tmp_path / "classes"), "torch")
    assert shown.asks_class
    other, model = faces.PICTURES[1], shown.model
    sheet, says = actions.reconstruct(shown, PICTURE, "2")
    back = model.reconstruct(PICTURE[None], classes=2, output="mean")
    np.testing.assert_array_equal(
        sheet, pictures.shown([np.stack([PICTURE, back[0]])], [["picture", "reconstruction"]])
    )
    assert f"{model.bound(PICTURE[None], classes=2).bits_per_dim:.2f} bits/dim" in says
    film = model.interpolate(PICTURE, other, n=3, classes=1, classes_b=2)
    np.testing.assert_array_equal(
        actions.interpolate(shown, PICTURE, other, 3, "1, 2"), pictures.shown([film])
    )
    sheets = [actions.keep(shown, PICTURE, 1, 2, 0, 1.0, typed)[0] for typed in ("0", "0, 1", "1")]
    assert (sheets[0] != sheets[2]).any()
    call = {"keeps_later": True, "seed": 0}
    moved = [actions.change_latents(shown, PICTURE, 0, [1.0], classes=c, **call) for c in ("0", "2")]
    assert (moved[0] != moved[1]).any()
    with pytest.raises(UserError, match="encode needs classes"):
        actions.keep(shown, PICTURE, 1, 2, 0, 1.0)
    with pytest.raises(UserError, match="classes holds 3: the model has 3 classes"):
        actions.reconstruct(shown, PICTURE, "3")


def test_a_prompt_goes_through_the_text_encoder(tmp_path):
    encoder = write_encoder(tmp_path, "t5")
    tokenizer = dio.new(
        "vqgan", target_res=8, channels=1, hidden_channels=8, norm_groups=4, num_embeddings=16
    )
    reader = dio.new(
        "maskgit",
        tokenizer=tokenizer,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        add_cross_attention=True,
        encoder_hidden_size=WIDTH,
        text_length=LENGTH,
        initializer_range=1.0,
    )
    reader.save(tmp_path / "reader")
    assert Exhibit(str(tmp_path / "reader"), "torch").tabs == ("reconstruct",)
    shown = Exhibit(str(tmp_path / "reader"), "torch", str(encoder))
    assert shown.tabs == ("generate", "inpaint", "outpaint", "edit", "reconstruct", "twins")
    made = [
        actions.generate(
            shown, 4, 0, actions.conditions(shown, 4, "", prompt), {"steps": 2}, film=False
        ).sheet
        for prompt in ("a cat", "a cat", "99")
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
    asked, options = actions.conditions(shown, 2, "", "a cat"), {"steps": 4}
    sheets = [actions.edit(shown, PICTURE, strength, 2, 3, asked, options) for strength in (0.0, 0.5, 1.0)]
    direct = shown.model.edit(PICTURE[None].repeat(2, 0), strength=0.5, seed=3, **asked, **options)
    np.testing.assert_array_equal(
        sheets[1], pictures.shown([PICTURE[None], *pictures.in_rows(direct)], [["picture"]])
    )
    unchanged = shown.model.reconstruct(PICTURE[None]).repeat(2, 0)
    np.testing.assert_array_equal(
        sheets[0], pictures.shown([PICTURE[None], *pictures.in_rows(unchanged)], [["picture"]])
    )
    assert (sheets[2] != sheets[0]).any()
    with pytest.raises(UserError, match=r"strength must be .* 1"):
        actions.edit(shown, PICTURE, 1.5, 2, 3, asked, options)
    with pytest.raises(UserError, match="picture: upload one"):
        actions.edit(shown, None, 0.5, 2, 3, asked, options)


def test_a_model_of_tokens_alone_cannot_be_shown(tmp_path):
    sizes = {"grid": 4, "codebook_size": 16, "target_res": 8, "channels": 1}
    dio.new("maskgit", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **sizes).save(tmp_path)
    with pytest.raises(
        UserError, match="can show nothing of this model of family 'maskgit': it has no tokenizer"
    ):
        Exhibit(str(tmp_path), "torch")


def as_file(array, kind="PNG"):
    file = BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def test_uploads_become_the_square_in_the_middle():
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = PICTURE[..., 0]
    np.testing.assert_array_equal(pictures.read_upload(as_file(wide), (8, 8, 1)), PICTURE)
    assert pictures.read_upload(as_file(wide, "JPEG"), (8, 8, 3)).shape == (8, 8, 3)


def test_a_mask_is_where_the_layer_is_painted():
    layer = np.zeros((384, 384, 4), np.uint8)
    layer[:192, 192:] = 255
    expected = np.zeros((8, 8), bool)
    expected[:4, 4:] = True
    np.testing.assert_array_equal(pictures.read_mask({"layers": [layer]}, (8, 8, 1)), expected)


def bomb():
    """A PNG of few bytes that says it has a billion pixels."""
    content = bytearray(as_file(np.zeros((8, 8), np.uint8)))
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda _: pictures.read_upload(b"", (8, 8, 1)), "upload a picture first"),
        (lambda _: pictures.read_upload(b"not a picture", (8, 8, 1)), "cannot be used: not an image"),
        (lambda _: pictures.read_upload(bomb(), (8, 8, 1)), "cannot be used"),
        (lambda _: pictures.read_mask(None, (8, 8, 1)), "draw on the picture"),
        (
            lambda _: pictures.read_mask({"layers": [np.zeros((8, 8, 4), np.uint8)]}, (8, 8, 1)),
            "draw on the picture",
        ),
        (lambda _: actions.read_classes("3; 7"), "classes must be whole numbers .* not '3; 7'"),
        (lambda _: actions.count(65), "number of pictures must be a whole number from 1 to 64, not 65"),
        (lambda _: actions.count(None), "not None"),
        (lambda _: actions.seed_of(-1), "seed must be"),
        (lambda _: actions.seed_of(0.5), "seed must be"),
        (lambda e: actions.inpaint(e, None, faces.LEFT, 1, 0, {"classes": 1}, {}), "picture: upload one"),
        (lambda e: actions.generate(e, 2, 0, {"classes": [99]}, {}, film=False), "classes holds 99"),
        (lambda e: actions.generate(e, 2, 0, {}, {"sampler": "halten"}, film=False), "sampler"),
        (
            lambda e: actions.generate(e, 64, 0, {}, {"steps": 2**16}, film=True),
            "take fewer pictures or steps",
        ),
        (lambda e: actions.interpolate(e, PICTURE, None, 4), "second picture: upload one"),
    ],
)
def test_a_wrong_value_is_one_line(exhibit, call, says):
    with pytest.raises(UserError, match=says) as refused:
        call(exhibit("maskgit"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/", True),
        ("/config", True),
        ("/assets/index.js", True),
        ("/gradio_api/queue/join", True),
        ("/gradio_api/upload", True),
        ("/gradio_api/file=/tmp/x.png", True),  # Gradio decides whether it made the file
        ("/gradio_api/file=https://a.b/x.png", False),
        ("/gradio_api/proxy=https://a.b/x.png", False),
        ("/gradio_api/dev/reload", False),
        ("/gradio_api/vibe-code", False),
        ("/gradio_api/run/generate", False),
        ("/monitoring", False),
        ("/docs", False),
    ],
)
def test_the_server_has_only_what_the_page_needs(path, served):
    assert is_served(path) is served


def answer_to(path, body=b"", kind=b"application/json", limit=1000):
    """Status of the guard's answer, or what it passes on."""
    sent, passed = [], []

    async def behind(scope, receive, send):
        passed.append((await receive())["body"])

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", kind)]}
    asyncio.run(Guard(behind, limit)(scope, receive, send))
    return sent[0]["status"] if sent else passed[0]


def test_a_layer_of_no_text_encoder_is_refused():
    with pytest.raises(UserError, match="--text-layer goes with --text-encoder"):
        main(["digits-vae", "--text-layer", "-2"])


def test_the_guard_stops_long_bodies_addresses_and_other_pages():
    join = "/gradio_api/queue/join"
    file = {"data": [{"path": "/tmp/x.png", "meta": {"_type": "gradio.FileData"}}]}
    fine = json.dumps(file).encode()
    assert answer_to(join, fine) == fine
    assert answer_to(join, b"x" * 1001) == 413
    file["data"][0]["path"] = "http://127.0.0.1/x.png"
    assert answer_to(join, json.dumps(file).encode()) == 400
    assert answer_to("/gradio_api/upload", b"http://x", b"multipart/form-data; boundary=x") == b"http://x"
    assert answer_to("/gradio_api/dev/reload") == 404


def test_a_call_ends_at_its_next_batch_and_errors_are_messages(exhibit):
    jobs, seen = import_module("dioscuri.demo.jobs").Jobs(), []
    error, session = import_module("gradio").Error, SimpleNamespace(session_hash="a")
    shown = exhibit("vae")

    def progress(done, unit):
        seen.append(done)
        jobs.cancel(session)

    with pytest.raises(error, match="cancelled"):
        jobs.job(shown, lambda: actions.generate(shown, 40, 0, {}, {}, film=False))(session, progress)
    assert seen == [(0, 40)]
    assert shown.model.on_batch is None
    with pytest.raises(error, match="not '&lt;b&gt;"):
        jobs.job(shown, actions.read_classes)(session, progress, "<b>")
    done = jobs.job(shown, lambda n: n + 1)(session, progress, 1)
    assert done == 2
