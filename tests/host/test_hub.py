"""Models of the hub: fetched once, continued, verified; without network one clear line."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dioscuri import download
from dioscuri.errors import UserError
from dioscuri.hub import local_folder

FILES = {
    "/owner/model/resolve/main/config.json": b'{"_class_name": "MaskGitVQGAN"}',
    "/owner/model/resolve/main/vae/config.json": b"{}",
    "/owner/model/resolve/main/vae/diffusion_pytorch_model.safetensors": bytes(range(256)) * 500,
    "/owner/model/resolve/main/pytorch_model.bin": b"weights",
    "/owner/bare/resolve/main/config.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: weights by a redirection whose headers tell their sha256."""

    cut_after, lie, asked = None, False, ()

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_arguments):
        pass

    def _answer(self, *, body):
        Hub.asked = (*Hub.asked, (self.command, self.path, self.headers.get("Range")))
        path = self.path.removeprefix("/cdn")
        if path not in FILES:
            self.send_error(404)
            return
        content = FILES[path]
        large = not path.endswith("json")
        if large and not self.path.startswith("/cdn"):
            digest = hashlib.sha256(b"other" if Hub.lie else content).hexdigest()
            self.send_response(302)
            self.send_header("Location", f"/cdn{path}")
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        self.send_header("ETag", f'"{blob}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            cut = Hub.cut_after if large else None
            Hub.cut_after = None if large else Hub.cut_after
            self.wfile.write(content[start : None if cut is None else start + cut])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, an empty cache, and no patience."""
    Hub.cut_after, Hub.lie, Hub.asked = None, False, ()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DIOSCURI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_once(hub):
    folder = local_folder("owner/model")
    assert (folder / "pytorch_model.bin").read_bytes() == b"weights"
    assert json.loads((folder / "config.json").read_text()) == {"_class_name": "MaskGitVQGAN"}
    n = len(hub.asked)
    assert local_folder("owner/model") == folder
    assert len(hub.asked) == n


def test_a_folder_inside_and_an_interrupted_transfer(hub):
    hub.cut_after = 40_000
    folder = local_folder("owner/model/vae")
    name = "diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == FILES[f"/owner/model/resolve/main/vae/{name}"]
    assert ("GET", f"/cdn/owner/model/resolve/main/vae/{name}", "bytes=40000-") in hub.asked
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", name]


def test_a_wrong_file_is_not_kept(hub):
    hub.lie = True
    with pytest.raises(UserError, match=r"its sha256 is .* not .*; the download was deleted"):
        local_folder("owner/model")
    hub.lie = False
    assert (local_folder("owner/model") / "pytorch_model.bin").exists()


def test_the_name_of_a_small_file_is_gits(tmp_path):
    (tmp_path / "file").write_bytes(b"what is up, doc?")
    assert download.file_digest(tmp_path / "file", "git") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


@pytest.mark.parametrize(
    ("name", "told"),
    [("owner/nothing", "has no config.json"), ("owner/bare", "has no weights: none of")],
)
def test_models_that_are_not_whole(hub, name, told):
    with pytest.raises(UserError) as caught:
        local_folder(name)
    assert told in str(caught.value)


def test_no_network_is_one_clear_line(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        local_folder("owner/model")
    assert "there is no folder 'owner/model' here, and the hub http://127.0.0.1:9 cannot be reached" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/absolute/path", "./owner/model", "../a/b", "alone"])
def test_paths_are_no_names_of_models(hub, path):
    assert str(local_folder(path)) == path.removeprefix("./")
    assert hub.asked == ()
