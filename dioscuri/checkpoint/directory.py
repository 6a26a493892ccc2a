"""The folder of a run, `<twin>/logs-<run.name>/`, and its lock against a second process."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from dioscuri.errors import UserError

_HELD: set[Path] = set()
"""Run folders that this process has locked. The kernel's lock keeps other processes out, not other threads,
and closing a second descriptor of its file would release it."""
_HELD_GUARD = Lock()


@dataclass
class RunDirectory:
    """The folder that a run writes to."""

    path: Path
    _descriptor: int | None = field(default=None, init=False, compare=False)

    @classmethod
    def of(cls, log_root: Path, name: str) -> "RunDirectory":
        """The folder of the run `name` under `log_root`; nothing is created."""
        return cls(log_root / f"logs-{name}")

    @property
    def checkpoints(self) -> Path:
        """One folder per step."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """JSON lines: one object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def images(self) -> Path:
        """Output of the synthesis modes."""
        return self.path / "synthesis-images"

    @property
    def latents(self) -> Path:
        """Divergence statistics and encodings."""
        return self.path / "latents"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and hold its lock; a `UserError` if the folder cannot be written or
        another process or thread holds the lock.

        This is a record lock of the kernel: it ends with the process, in whatever way, and children do not
        inherit it. If the folder holds nothing else at the end, it is removed.
        """
        with _alone_in_process(self.path):
            descriptor = self._open_lock()
            try:
                _take(descriptor, self._lock)
                self._descriptor = descriptor
                self._remove_litter()
                try:
                    yield
                finally:
                    self._remove_if_unused()
            finally:
                self._descriptor = None
                os.close(descriptor)

    def check_held(self) -> None:
        """Raise a `UserError` if the lock file was removed or another process holds the lock."""
        if self._descriptor is None:
            return
        if not _is(self._descriptor, self._lock):
            raise UserError(
                f"run directory {self.path} was removed during the run: nothing more is written; start again"
            )
        # Use the open descriptor: closing another one of the same file would release the lock.
        holder = _holder(self._descriptor)
        if holder != str(os.getpid()):
            raise UserError(f"run directory {self.path} was taken by process {holder}: this run ends")

    def in_use(self) -> bool:
        """Whether another process holds the lock."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _remove_litter(self) -> None:
        """Remove temporary files of `dioscuri.files.replacing` that killed processes left behind."""
        for path in self.path.rglob(".*.dioscuri-partial"):
            with suppress(OSError):
                path.unlink()

    def _remove_if_unused(self) -> None:
        with suppress(OSError):
            if list(self.path.iterdir()) == [self._lock]:
                self._lock.unlink()
                self.path.rmdir()

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    def _open_lock(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"run directory {self.path} cannot be written ({error.strerror}): make its folder writable"
            ) from error


def remove(path: Path) -> None:
    """Remove the folder of a run; a `UserError` if a process uses it or removing it is not permitted."""
    with RunDirectory(path).locked():
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise UserError(f"run directory {path} cannot be removed completely: {error.strerror}") from error


@contextmanager
def _alone_in_process(path: Path) -> Iterator[None]:
    """Raise a `UserError` if another thread of this process has locked the run's folder."""
    folder = path.resolve()
    with _HELD_GUARD:
        if folder in _HELD:
            raise UserError(
                f"run directory {path} is in use by this process: wait, or choose another run.name"
            )
        _HELD.add(folder)
    try:
        yield
    finally:
        _HELD.remove(folder)


def _take(descriptor: int, file: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(descriptor) or "unknown"
        raise UserError(
            f"run directory {file.parent} is in use by process {holder}: wait, or choose another run.name"
        ) from error
    if not _is(descriptor, file):
        raise UserError(f"run directory {file.parent} was just removed by another process: start again")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip()


def _is(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one at the path `file`."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False
