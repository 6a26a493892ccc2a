"""Models on the hub: downloaded once, continued, verified; without network, one clear line."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dioscuri.errors import UserError
from dioscuri.hub import local_folder

FILES = {
    "owner/model": {
        "config.json": b'{"_class_name": "MaskGitVQGAN"}',
        "pytorch_model.bin": b"weights",
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": bytes(range(256)) * 500,
        "sharded/config.json": b"{}",
        "sharded/model.safetensors.index.json": b'{"weight_map": {"a": "one", "b": "two", "c": "one"}}',
        "sharded/one": b"1",
        "sharded/two": b"2",
        "sharded/three": b"3",
    },
    "owner/pipeline": {
        "model_index.json": b"""{"_class_name": "AmusedPipeline", "transformer": ["diffusers", "UVit2DModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "safety_checker": [null, null]}""",
        "transformer/config.json": b"{}",
        "transformer/diffusion_pytorch_model.safetensors": b"weights",
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"half",
        "tokenizer/merges.txt": b"",
        "tokenizer/vocab.json": b"{}",
        "training/optimizer.bin": b"more",
    },
    "owner/bare": {"config.json": b"{}"},
    "owner/empty": {"README.md": b""},
}
COMMIT = "0123456789" * 4


class Hub(BaseHTTPRequestHandler):
    """Answers like the hub: weights by a redirection whose headers contain their sha256."""

    cut_after, asked = None, ()

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_arguments):
        pass

    def _answer(self, *, body):
        path = self.path.partition("?")[0].strip("/").removeprefix("cdn/")
        Hub.asked = (*Hub.asked, (self.command, self.path, self.headers.get("Range")))
        parts = path.removeprefix("api/models/").split("/")
        files = FILES.get("/".join(parts[:2]), {})
        if path.startswith("api/models/") and files:
            listed = [{"type": "file", "path": name, "size": len(c), "oid": "0"} for name, c in files.items()]
            self._send(200, json.dumps(listed).encode(), body=body)
        elif (content := files.get("/".join(parts[4:]))) is None:
            code = "EntryNotFound" if files else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code}, body=body)
        else:
            self._file(content, path, body=body)

    def _file(self, content, path, *, body):
        digest, large = hashlib.sha256(content).hexdigest(), not path.endswith("json")
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{blob}"'}
        if large and not self.path.startswith("/cdn"):
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self._send(302, b"", {**headers, **linked, "Location": f"/cdn/{path}"}, body=body)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut, Hub.cut_after = (Hub.cut_after, None) if large and body else (None, Hub.cut_after)
        self._send(206 if start else 200, content[start:], headers, body=body, cut=cut)

    def _send(self, status, content, headers=None, *, body, cut=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local hub and an empty cache."""
    Hub.cut_after, Hub.asked = None, ()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DIOSCURI_CACHE", str(tmp_path / "cache"))
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


def test_without_the_hub_a_fetched_model_opens(hub, monkeypatch):
    folder = local_folder("owner/model/vae")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_folder("owner/model/vae") == folder


def test_a_folder_inside_and_an_interrupted_transfer(hub):
    hub.cut_after = 40_000
    folder = local_folder("owner/model/vae")
    name = "diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == FILES["owner/model"][f"vae/{name}"]
    assert [asked[0] for asked in hub.asked if asked[1].endswith(name)][-2:] == ["GET", "GET"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", name]


def test_all_shards_are_fetched_and_nothing_else(hub):
    folder = local_folder("owner/model/sharded")
    names = ["config.json", "model.safetensors.index.json", "one", "two"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_pipeline_is_fetched_once_with_its_subfolders(hub, monkeypatch):
    folder = local_folder("owner/pipeline")
    fetched = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    unread = ("transformer/diffusion_pytorch_model.fp16.safetensors", "training/optimizer.bin")
    assert fetched == set(FILES["owner/pipeline"]) - set(unread)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_folder("owner/pipeline") == folder


def test_a_pipeline_whose_transfer_was_interrupted_is_completed(hub):
    folder = local_folder("owner/pipeline")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    local_folder("owner/pipeline")
    assert weights.read_bytes() == b"weights"


def test_a_broken_file_of_the_cache_is_fetched_again(hub):
    folder = local_folder("owner/model")
    for name in ("pytorch_model.bin", "config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).resolve().write_bytes(b"broken")
        assert (local_folder("owner/model") / name).read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/empty", "has no config.json"),
        ("owner/bare", "has no weights: no file is named"),
        ("owner/nothing", "does not give a model of that name: 404"),
    ],
)
def test_models_that_are_not_whole(hub, name, message):
    with pytest.raises(UserError) as caught:
        local_folder(name)
    assert message in str(caught.value)


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
