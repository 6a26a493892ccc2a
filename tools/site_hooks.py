"""What mkdocs adds to the documentation: files from outside `docs/`, tables of options, and pages of help.

mkdocs calls the functions whose names begin with `on_`. Comments in a page stand for what is generated:
`<!-- options: FAMILY -->` for the options of a family, `<!-- options: shared -->` for those that all families
share, `<!-- help -->` for the help of every command, and the marks of `tests/support/pages.py` for a line
that says how the code below is tested.
"""

import ast
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dioscuri.cli.main import COMMANDS, command_parser
from dioscuri.hparams import sections
from dioscuri.hparams.schema import in_words
from dioscuri.registry import family_module

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that lie outside `docs/`, and their names on the site."""
SHARED = (sections.Run, sections.Data, sections.Optimizer, sections.Train, sections.Val)
NOTES = {
    "quick": "Tested with two training steps and a few pictures.",
    "checked": "The names and options are tested, but nothing is run: {}.",
    "not run": "Not run by a test: {}.",
}
"""What the site says about a block of code with a mark."""

_LINK = re.compile(r"(?P<picture>!?)\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_MARK = re.compile(rf"^<!-- (?P<kind>{'|'.join(NOTES)})(: (?P<what>.+?))? -->$", re.MULTILINE)
_CARD = re.compile(r"pretrained/([^/]+)/(README\.md|samples\.png)")
_log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside `docs/`."""
    names = [*OUTSIDE, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("pretrained/*/README.md"))]
    pages = {str(_place(name)): relinked((ROOT / name).read_text(), name) for name in names}
    pages["tour.md"] = notebook_page(json.loads((ROOT / "examples" / "tour.ipynb").read_text()))
    pages["examples.md"] = examples_page()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for picture in ROOT.glob("pretrained/*/samples.png"):
        place = str(_place(picture.relative_to(ROOT).as_posix()))
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Replace what stands for generated text."""
    if page.file.generated_by is None:
        markdown = relinked(markdown, f"docs/{page.file.src_uri}")
    markdown = re.sub(r"<!-- options: (\w+) -->", lambda found: options_of(found[1]), markdown)
    markdown = markdown.replace("<!-- help -->", "\n\n".join(help_pages()))
    return _MARK.sub(_note, markdown)


def relinked(markdown: str, page: str) -> str:
    """A page with links for the site. Links to files without a page become plain text."""
    folder, beside = (ROOT / page).parent, posixpath.dirname(str(_place(page)))

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or ":" in target:
            return found[0]
        path = (folder / target).resolve()
        if not path.exists():
            _log.warning("link to %s, which does not exist", found["target"])
        place = _place(path.relative_to(ROOT).as_posix())
        if place is None:
            return f"{found['label']}"
        place = posixpath.relpath(place, beside or ".")
        return f"{found['picture']}[{found['label']}]({place}{'#' if anchor else ''}{anchor})"

    pieces = _CODE.split(markdown)  # code is every second piece
    return "".join(piece if i % 2 else _LINK.sub(link, piece) for i, piece in enumerate(pieces))


def _place(path: str) -> str | None:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    card = _CARD.fullmatch(path)
    if card:
        return f"shipped/{card[1]}{'.md' if card[2] == 'README.md' else '-samples.png'}"
    if path.startswith("examples"):
        return "tour.md" if path.endswith(".ipynb") else "examples.md"
    return OUTSIDE.get(path)


def _note(found: re.Match[str]) -> str:
    return f"<small markdown>{NOTES[found['kind']].format(found['what'])}</small>\n"


def options_of(family: str) -> str:
    """Tables of a family's options, one per section, without those that all families share."""
    if family == "shared":
        kinds: dict[str, Any] = {kind.__name__.lower(): kind for kind in SHARED}
    else:
        kinds = get_type_hints(family_module(family, "options").HParams)
    tables = []
    for name, kind in kinds.items():
        known = set() if family == "shared" else _shared_fields(kind)
        rows = [row(declared, kind) for declared in fields(kind) if declared.name not in known]
        if rows:
            tables.append(
                "\n".join(
                    (
                        f"### [{name}]",
                        "",
                        "| option | value | default | meaning |",
                        "|---|---|---|---|",
                        *rows,
                    )
                )
            )
    return "\n\n".join(tables)


def _shared_fields(kind: type) -> set[str]:
    """Options of a section that all families share, with the same declaration."""
    known = {
        declared.name: declared
        for shared in SHARED
        if issubclass(kind, shared)
        for declared in fields(shared)
    }
    return {
        declared.name
        for declared in fields(kind)
        if declared.metadata == getattr(known.get(declared.name), "metadata", None)
    }


def row(declared: Field[Any], kind: type) -> str:
    """The row of an option."""
    default = "required" if declared.default is MISSING else f"`{declared.default!r}`"
    cells = (
        f"`{declared.name}`",
        _value(declared, get_type_hints(kind)[declared.name]),
        default,
        _meaning(declared),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(declared: Field[Any], hint: Any) -> str:
    facts = declared.metadata
    if facts["choices"] is not None:
        return ", ".join(f"`{choice!r}`" for choice in facts["choices"])
    limits = {"at least": facts["low"], "at most": facts["high"]}
    return ", ".join(
        [in_words(hint), *(f"{word} {limit:,}" for word, limit in limits.items() if limit is not None)]
    )


def _meaning(declared: Field[Any]) -> str:
    facts = declared.metadata
    more = [f"also called `{name}`" for name in facts["alias"]]
    switches = [
        f"`{switch}` is {' or '.join(f'`{value!r}`' for value in values) or 'on'}"
        for switch, values in facts["needs"]
    ]
    if switches:
        more.append(f"applies if {', or if '.join(switches)}")
    return "; ".join([facts["doc"].replace("<", "&lt;"), *more])


def help_pages() -> Iterator[str]:
    """What every command prints with `--help`."""
    for command in COMMANDS:
        yield f"## dioscuri {command}\n\n```text\n{command_parser(command).format_help()}```"


def examples_page() -> str:
    """The scripts of `examples/`, each with the words at its head."""
    page = [
        "# Examples",
        "Complete programs of the folder `examples/`, tested in both twins. Each takes `--help`.",
    ]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text()
        title = (ast.get_docstring(ast.parse(code)) or "").partition("\n")[0]
        page.append(f"## {path.name}\n\n{title}\n\n```python\n{code}```")
    return "\n\n".join(page)


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook as a page: texts, code, and what the code printed and drew."""
    page = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        page.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                page.append(f'<img src="data:image/png;base64,{png}" alt="output of the code above">')
            else:
                page.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(page)
