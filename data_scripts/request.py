"""A user's request, and the two steps that all data sets share: get a file, build a folder."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dioscuri.download import check, fetch, parse_digest
from dioscuri.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to download; `checksum` is `md5:<hex>`, `sha256:<hex>`, or empty if none is certain.

    `url` is empty if a script cannot fetch the file; `page` then tells the user where to look.
    """

    name: str
    url: str = ""
    checksum: str = ""
    page: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where data comes from and goes. `checksums` maps file names to sha256; '' is the only file."""

    output: Path
    downloads: Path
    base_url: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    unverified: bool = False
    archive: str = ""
    validation: int | None = None

    def get(self, remote: Remote) -> Path:
        """Return the verified local file, from `downloads` if it is there, else downloaded."""
        given = self.checksums.get(remote.name) or self.checksums.get("")
        checksum = f"sha256:{given}" if given else remote.checksum
        if checksum:
            parse_digest(checksum)
        elif not self.unverified:
            raise UserError(
                f"the checksum of {remote.name} is unknown; give --sha256 {remote.name}=<hex> or --unverified"
            )
        target = self.downloads / remote.name
        url = f"{self.base_url.rstrip('/')}/{remote.name}" if self.base_url else remote.url
        if not url and target.exists():
            check(target, checksum)
            return target
        if not url:
            raise UserError(
                f"{remote.name} cannot be downloaded by a script; download it by hand from {remote.page} "
                "into "
                f"{self.downloads}, or give --base-url"
            )
        return fetch(url, target, checksum)

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Yield an empty folder that becomes `output`/`name` if the block succeeds and is removed otherwise.

        Raises a `UserError` if `output`/`name` exists already.
        """
        target = self.output / name
        if target.exists():
            raise UserError(f"{target} exists; remove it to prepare the data again")
        self.output.mkdir(parents=True, exist_ok=True)
        partial = self.output / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(f"prepared {target}")
