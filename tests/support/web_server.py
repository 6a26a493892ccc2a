"""A local server that can misbehave, and files for it: archives and pictures."""

import io
import tarfile
import threading
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

DATA = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()


class Server:
    """Serves `files` (name -> bytes), with ranges. `cut`: the connection breaks off once after this many
    bytes; `endless`: sends until the client disconnects."""

    def __init__(self):
        self.files = {}
        self.cut = None
        self.endless = False
        self.ranges = True
        self.tag = '"one"'
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if self.endless:
            request.send_response(200)
            request.end_headers()
            with suppress(OSError):
                while True:
                    request.wfile.write(bytes(1 << 16))
            request.close_connection = True
            return
        data = self.files.get(request.path.lstrip("/"))
        if data is None:
            request.send_error(404, "Not Found")
            return
        start = 0
        same = request.headers.get("If-Range", self.tag) == self.tag
        if asked and self.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        if self.tag:
            request.send_header("ETag", self.tag)
        body = data[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.cut is not None:
            body, self.cut = body[: self.cut], None
            request.close_connection = True
        request.wfile.write(body)


def tar_of(path, entries):
    """entries: (name, content) or a TarInfo."""
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def zip_of(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def picture_bytes(size, seed, kind="PNG"):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()
