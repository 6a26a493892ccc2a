"""The documentation's site builds without a warning and without the network, and its tables are complete."""

import os
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from dioscuri.cli.main import COMMANDS
from dioscuri.registry import family_names
from tools.site_hooks import help_pages, options_of, relinked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `mkdocs build --strict` builds it: with every broken link an error. With `--quiet`,
    mkdocs would count no warnings."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_every_page_and_asks_no_other_host_for_anything(site):
    pages = {path.relative_to(site).parent.as_posix(): path.read_text() for path in site.rglob("index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(pages)
    assert {".", "tour", "examples", "changes", "contributing"} <= set(pages)
    foreign = ('src="http', 'rel="stylesheet" href="http', "fonts.googleapis")
    assert not [(name, word) for name, page in pages.items() for word in foreign if word in page]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("masked_tokens", "guidance_scale"),
        ("command_line", "--no-check"),
        ("api", "dioscuri.jax.load"),
        ("sundae", "Tested with two training steps"),
        ("install", "Not run by a test: it needs docker"),
    ],
)
def test_generated_text_is_in_its_page(site, page, words):
    text = unescape((site / page / "index.html").read_text())
    assert words in text
    assert "<!-- " not in text


@pytest.mark.parametrize("family", ["shared", *family_names()])
def test_the_table_of_a_family_has_every_option_once(family):
    table = options_of(family)
    names = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert names
    assert table.count("### [") == table.count("| option | value | default | meaning |")
    assert all(line.count(" | ") == 3 for line in table.splitlines() if line.startswith("| `"))


def test_every_command_has_its_help():
    assert [page.split("\n")[0] for page in help_pages()] == [f"## dioscuri {name}" for name in COMMANDS]


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "[a](docs/python.md#errors)", "[a](python.md#errors)"),
        ("README.md", "![a](docs/digits.png)", "![a](digits.png)"),
        ("README.md", "[a](LICENSE)", "a"),
        ("docs/python.md", "[a](../CHANGELOG.md)", "[a](changes.md)"),
        ("docs/python.md", "[a](../pretrained/digits-vae/README.md)", "[a](shipped/digits-vae.md)"),
        ("pretrained/digits-vae/README.md", "![a](samples.png)", "![a](digits-vae-samples.png)"),
        ("pretrained/digits-vae/README.md", "[a](../../docs/python.md)", "[a](../python.md)"),
        ("docs/python.md", "[a](#errors) [b](https://a.b)", "[a](#errors) [b](https://a.b)"),
        ("docs/python.md", "```\n[a](../LICENSE)\n```", "```\n[a](../LICENSE)\n```"),
    ],
)
def test_links_lead_to_pages_or_become_text(page, link, there):
    assert relinked(link, page) == there
