"""The demo as a visitor meets it: its server by HTTP, and every tab of its page in Chromium."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import requests
from PIL import Image

from dioscuri import torch as dio
from dioscuri.demo import pictures
from dioscuri.job import free_port
from tests.support import faces
from tests.support.browser import SECONDS, open_page
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder
from tests.support.twins import ROOT


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return faces.runs(tmp_path_factory.mktemp("runs"))


def command(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "dioscuri", "demo", *map(str, words)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def prompted(runs, tmp_path_factory):
    """A folder with the smallest model of texts, its tokenizer and its text encoder."""
    folder = tmp_path_factory.mktemp("texts")
    network = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    texts = {"add_cross_attention": True, "encoder_hidden_size": WIDTH, "text_length": LENGTH}
    dio.new("maskgit", tokenizer=dio.load(runs["vqgan"]), **network, **texts).save(folder / "plain")
    encoder = write_encoder(folder, "t5")
    dio.load(folder / "plain", text_encoder=encoder).save(folder / "prompted")
    return folder / "prompted"


@pytest.fixture(scope="module")
def url(runs, prompted, tmp_path_factory):
    """A server that shows a token model, a VAE and a model of texts, and takes uploads of a megabyte."""
    folder = tmp_path_factory.mktemp("temporary")
    models, words = (runs["maskgit"], runs["vae"], prompted), ("--port", free_port(), "--max-upload", 1)
    server = command(*models, "--twin", "torch", *words, TMPDIR=str(folder))
    line = server.stdout.readline()
    match = re.fullmatch(
        r"maskgit, vae, prompted: open (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", line
    )
    assert match, line + server.communicate()[0]
    yield match[1]
    server.terminate()  # a suite in the background may hand on that Ctrl-C is ignored
    said = server.communicate(timeout=SECONDS)[0]
    assert server.returncode == 0
    assert "UserError" not in said  # a message for the visitor leaves no traceback
    assert not list(folder.iterdir())  # uploads and results are gone


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A colour picture that is not square."""
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def call(url, name, *values):
    """What an event of the page answers: its kind, and its data."""
    asked = requests.post(f"{url}/gradio_api/call/{name}", json={"data": values}, timeout=SECONDS)
    if not asked.ok:
        return asked.status_code, asked.json()["detail"]
    answer = requests.get(f"{url}/gradio_api/call/{name}/{asked.json()['event_id']}", timeout=SECONDS).text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", answer)[-1]
    return kind, json.loads(data)


def upload(url, content, name="photo.png"):
    return requests.post(f"{url}/gradio_api/upload", files={"files": (name, content)}, timeout=SECONDS)


def as_file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_the_server_gives_no_file_of_the_machine(url, runs, picture):
    secret = next(runs["maskgit"].glob("hparams-*.cfg"))
    for path in (secret, picture, "/etc/passwd", f"../../..{secret}", f"%2e%2e/{secret}", "pyproject.toml"):
        for form in ("file=", "file/"):
            answer = requests.get(f"{url}/gradio_api/{form}{path}", timeout=SECONDS)
            assert answer.status_code in (403, 404), path
    for path in (
        "gradio_api/proxy=http://127.0.0.1/",
        "gradio_api/file=http://127.0.0.1/",
        "monitoring",
        "docs",
    ):
        assert requests.get(f"{url}/{path}", timeout=SECONDS).status_code == 404, path


def test_the_server_reads_no_path_and_no_address(url, picture):
    assert call(url, "uploaded", as_file(str(picture)))[0] == "error"
    assert call(url, "uploaded", as_file("http://127.0.0.1/photo.png")) == (
        400,
        "give a file, not the address of one",
    )


def test_uploads_are_limited_and_must_be_pictures(url, picture):
    too_long = upload(url, bytes(3 * 2**20))
    assert (too_long.status_code, too_long.json()["detail"]) == (
        413,
        "a request may have at most 1,114,112 bytes",
    )
    assert upload(url, bytes(2**20 + 1)).status_code == 413
    [path] = upload(url, b"no picture").json()
    kind, said = call(url, "uploaded", as_file(path))
    assert (kind, said["error"]) == ("error", "the picture cannot be used: not an image")
    [path] = upload(url, picture.read_bytes()).json()
    assert call(url, "uploaded", as_file(path))[0] == "complete"


@pytest.mark.browser
def test_a_visitor_generates_fills_extends_and_compares(url, runs, picture):
    with open_page(url) as visitor:
        visitor.type_in("classes, 0 to 9", "99")
        visitor.press("Generate")
        visitor.sees("classes holds 99: the model has 10 classes, counted from 0")
        visitor.type_in("classes, 0 to 9", "3, 7")
        visitor.type_in("seed", 5)
        visitor.press("Generate")
        model = dio.load(runs["maskgit"])
        sheet, _ = visitor.picture("pictures")
        expected = model.generate(classes=[3, 7] * 8, seed=5)
        np.testing.assert_array_equal(sheet, pictures.shown(expected))
        assert visitor.picture("steps")[1].endswith(".gif")

        visitor.open_tab("Inpaint")
        visitor.press("Sample of the model")
        visitor.draw()
        visitor.type_in("classes, 0 to 9", "3")
        visitor.press("Fill")
        sheet, _ = visitor.picture("filled")
        assert (sheet == 128).any()

        visitor.open_tab("Outpaint")
        visitor.upload("Upload picture", picture)
        shown, _ = visitor.picture("picture")
        cropped = pictures.read_upload(picture.read_bytes(), (8, 8, 1))
        np.testing.assert_array_equal(shown[:: len(shown) // 8, :: len(shown) // 8, :1], cropped)
        visitor.type_in("classes, 0 to 9", "3")
        visitor.press("Extend")
        visitor.picture("extended")

        visitor.open_tab("Reconstruct")
        visitor.upload("Upload picture", picture)
        visitor.picture("picture")
        visitor.press("Reconstruct")
        visitor.text("quality", "of 255")
        visitor.picture("reconstruction")

        visitor.open_tab("Both twins")
        visitor.press("Compare")
        says = visitor.text("difference", "differ")
        assert re.fullmatch(
            r"largest difference [01] of 255, in \d+ of 256 values; 0 of 64 tokens differ", says
        ), says
        assert visitor.picture("PyTorch")[0].std() > 0
        assert visitor.hosts == {url.partition("//")[2]}


@pytest.mark.browser
def test_a_visitor_explores_latents(url, runs, picture):
    with open_page(url) as visitor:
        visitor.open_tab("vae")
        visitor.press("Generate")
        expected = dio.load(runs["vae"]).generate(16, seed=0)
        np.testing.assert_array_equal(visitor.picture("pictures")[0], pictures.shown(expected))

        visitor.open_tab("Reconstruct")
        visitor.upload("Upload picture", picture)
        visitor.picture("picture")
        visitor.press("Reconstruct")
        visitor.text("quality", "bits/dim")

        visitor.open_tab("Interpolate")
        visitor.upload("Upload first picture", picture)
        visitor.picture("first picture")
        visitor.page.get_by_role("button", name="Sample of the model").nth(1).click()
        visitor.picture("second picture")
        visitor.press("Interpolate")
        visitor.picture("interpolation")

        visitor.open_tab("Latents")
        visitor.press("Sample of the model")
        visitor.picture("picture")
        visitor.press("Show")
        _, before = visitor.picture("shifted")
        visitor.page.get_by_label("number input for latent 0").fill("4")
        visitor.press("Show")
        visitor.picture("shifted", unlike=before)

        visitor.open_tab("Keep first k")
        visitor.press("Show")
        visitor.sees("picture: upload one, or take a sample of the model")
        visitor.press("Sample of the model")
        visitor.picture("picture")
        visitor.press("Show")
        assert visitor.text("latents", "groups").startswith("the first 1 of 3 latent groups")


@pytest.mark.browser
def test_a_visitor_edits_a_picture_by_a_prompt(url, prompted, picture):
    with open_page(url) as visitor:
        visitor.open_tab("prompted")
        visitor.open_tab("Edit")
        visitor.upload("Upload picture", picture)
        visitor.picture("picture")
        visitor.press("Edit")
        visitor.sees("prompts: text 1 is empty: say what to draw")
        visitor.type_in("prompt", "red")
        visitor.press("Edit")
        given = pictures.read_upload(picture.read_bytes(), (8, 8, 1))[None]
        edited = dio.load(prompted).edit(given.repeat(4, 0), prompts="red", seed=0)
        expected = pictures.shown([given, *pictures.in_rows(edited)], [["picture"]])
        np.testing.assert_array_equal(visitor.picture("edited")[0], expected)


@pytest.mark.browser
def test_a_visitor_ends_a_long_call(url):
    with open_page(url) as visitor:
        visitor.delay("**/cancel", 1)  # as a slow machine does
        visitor.page.get_by_label("number input for pictures").first.fill("64")
        visitor.type_in("steps", 128)
        visitor.press("Generate")
        visitor.sees_progress()
        visitor.cancel()
        visitor.page.get_by_label("number input for pictures").first.fill("2")
        visitor.type_in("steps", 2)
        visitor.press("Generate")
        sheet, _ = visitor.picture("pictures")
        assert sheet.shape[0] > sheet.shape[1]  # two pictures above each other


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("digit-vae",), "no shipped model of that name (did you mean 'digits-vae'?)"),
        (("logs-none",), "there is no folder logs-none"),
        (("logs-none", "--port", 0), "--port must be from 1 to 65535, not 0"),
        (("logs-none", "--max-upload", 0), "--max-upload must be from 1 to 1024, not 0"),
        (("logs-none", "--host", "192.0.2.1"), "no server can listen there"),
    ],
)
def test_what_cannot_be_served_is_one_line(words, says):
    done = command(*words)
    said = done.communicate(timeout=SECONDS)[0]
    assert done.returncode == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said
