"""Files of the package: where they lie, and how they are written whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import platformdirs

from misoxr.errors import MisoxrError, StoreError

try:
    import fcntl
except ImportError:  # Windows: what killed processes leave stays there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "cache",
    "expanded",
    "flush",
    "reserve",
    "restore",
    "retire",
    "scratch",
    "settle",
    "unwritable",
    "workspace",
    "write",
    "writing",
]

SUFFIX, _WORK = ".scratch", "misoxr-temporary"
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS}
"""Errors that come of writing alone."""
_NO_RESERVING = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def expanded(address: str | os.PathLike[str]) -> str:
    """Return an address as text: ``~`` is the home directory, as in a shell, and a URL stays as it is."""
    text = os.fspath(address)
    return text if "://" in text else os.path.expanduser(text)


def cache(kind: str) -> Path:
    """Return a folder of the local cache: ``MISOXR_CACHE``, or the user's cache directory."""
    return Path(expanded(os.environ.get("MISOXR_CACHE") or platformdirs.user_cache_dir("misoxr"))) / kind


# ---- errors


def unwritable(place: Path, error: OSError, needed: int = 0) -> StoreError:
    """Return the error of a file that cannot be written, with the room that it needs, and what to do."""
    left = ""
    if error.errno in _FULL and needed:
        with suppress(OSError):
            left = f", and it takes {needed / 1e6:,.1f} MB where {shutil.disk_usage(place.parent).free / 1e6:,.1f} MB are left"
    if any(part == _WORK or part.startswith(f".{_WORK}.") for part in place.parts):
        other = "set TMPDIR to another directory"
    elif cache("").absolute() in place.absolute().parents:
        other = "set MISOXR_CACHE to another directory"
    else:
        other = "give another directory"
    remedy = f"make room there, or {other}" if error.errno in _FULL else other
    return StoreError(f"{place} cannot be written ({error}){left}; {remedy}.")


@contextmanager
def writing(place: Path, *, needed: int = 0, alone: bool = True) -> Iterator[None]:
    """Turn errors of writing into the package's; with ``alone=False``, where more is done, only those that tell of a full disk."""
    try:
        yield
    except MisoxrError:
        raise
    except OSError as error:
        if alone or error.errno in _FULL:
            raise unwritable(place, error, needed) from error
        raise


# ---- what is written


def write(place: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also where the machine stops, or other processes write it, too.

    Raises
    ------
    StoreError
        If it cannot be written. What was there stays.
    """
    with scratch(place) as aside, writing(place, needed=len(data)):
        aside.write_bytes(data)
        settle(aside, place)


@contextmanager
def scratch(place: Path, *, directory: bool = False) -> Iterator[Path]:
    """Give a new file or directory beside a place, to be settled in it; otherwise it is gone with the context.

    It is locked, which ends with its process. So what killed processes left is known, and removed here.

    Raises
    ------
    StoreError
        If it cannot be made, or the disk is full.
    """
    begin = f".{place.name[:40]}."
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        for old in place.parent.iterdir():
            if old.name.startswith(begin) and old.name.endswith(SUFFIX):
                _remove_abandoned(old)
        aside, held = _locked(place.parent, begin, directory=directory)
    try:
        with writing(place, alone=False):
            yield aside
    finally:
        _remove(aside)
        os.close(held)


def workspace() -> AbstractContextManager[Path]:
    """Give a directory for temporary files, which is gone with the context.

    Raises
    ------
    StoreError
        If there is no room for it.
    """
    try:
        return scratch(Path(tempfile.gettempdir()) / _WORK, directory=True)
    except OSError as error:
        raise StoreError(f"There is no directory for temporary files ({error}); set TMPDIR to one with room.") from error


def settle(source: Path, place: Path, before: Path | None = None) -> None:
    """Move a finished file or directory to its place, once it is on the disk.

    What lies there is replaced. A directory is removed once its successor has come; a file is kept as ``before``, where that is given.
    """
    with writing(place):
        if source.is_dir():
            _flush_all()
            retire(place)
        else:
            flush(source)
            if before is not None and place.exists():
                os.replace(place, before)
        try:
            os.replace(source, place)
        except OSError:
            restore(place)
            raise
        with suppress(OSError):  # not every system flushes directories
            flush(place.parent)
        restore(place)


def retire(place: Path, by: Callable[[Path, Path], object] = os.replace) -> None:
    """Move a directory out of the way of its successor, which is complete; ``by`` moves it."""
    if place.exists():
        _flush_all()
        _remove(_retired(place))
        by(place, _retired(place))


def restore(place: Path) -> None:
    """Bring back a directory that was retired, where its successor has not come; where it has, remove what was retired."""
    old = _retired(place)
    if old.is_dir() and place.exists():
        _remove(old)
    elif old.is_dir():
        os.replace(old, place)


def reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes that the disk has for certain: to write to a map of others ends the process where the disk fills.

    Raises
    ------
    OSError
        If the disk has no room for it.
    """
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_RESERVING:
                raise
            for start in range(0, size, 1 << 24):
                file.write(bytes(min(1 << 24, size - start)))
            file.flush()
            os.fsync(file.fileno())


def _retired(place: Path) -> Path:
    return place.with_name(f".{place.name}.retired")


def _flush_all() -> None:
    """Have all that was written on the disk: in one call for thousands of files."""
    if hasattr(os, "sync"):
        os.sync()


def flush(path: Path) -> None:
    """Have a file on the disk, or the names of a directory's files."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _locked(parent: Path, begin: str, *, directory: bool) -> tuple[Path, int]:
    """Make a file or directory of a new name, and lock it, before anyone takes it for abandoned."""
    while True:
        aside = parent / f"{begin}{uuid4().hex}{SUFFIX}"
        if directory:
            aside.mkdir(0o700)
        else:
            aside.touch(exist_ok=False)
        with suppress(FileNotFoundError):  # it was removed in between
            held = os.open(aside, os.O_RDONLY)
            if fcntl is not None:
                with suppress(OSError):  # systems that lock nothing: nobody else can lock it either
                    fcntl.flock(held, fcntl.LOCK_EX)
            if aside.exists():
                return aside, held
            os.close(held)


def _remove_abandoned(old: Path) -> None:
    """Remove what a process made that lives no more: nobody holds its lock. What cannot be removed stays."""
    with suppress(OSError):
        if fcntl is None or old.is_symlink():
            return
        file = os.open(old, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(old)
        finally:
            os.close(file)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
