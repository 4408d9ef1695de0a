"""Where an output stands: its folders, its lock, and whether its path still names the file that is open."""

from __future__ import annotations

import errno
import fcntl
import os

from crawler.errors import OutputError

__all__ = ["create_folders", "lock", "moved", "reason", "sync_folders"]

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})
_NO_SYNC = frozenset({errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


def create_folders(path: str) -> list[str]:
    """Make the folders above `path`. Returns those that have to be synced for `path` to survive a power failure: each
    that got a new entry, the innermost first."""
    folder = os.path.dirname(path)
    changed = [folder]
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
        changed.append(folder)
    os.makedirs(changed[0], exist_ok=True)
    return changed


def sync_folders(folders: list[str]) -> None:
    """Each of them, and take it from the list. Network file systems that cannot sync a folder are left alone."""
    while folders:
        fd = os.open(folders[-1], os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(fd)
        folders.pop()


def lock(fd: int, path: str) -> None:
    """Keep other outputs and other crawls away until `fd` is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{path} is being written by another output or another crawl.") from None
    except OSError as error:
        # Some network file systems have no locks; other signs tell of a second writer.
        if error.errno not in _NO_LOCKS:
            raise


def moved(fd: int, path: str) -> str | None:
    """What became of the file that `fd` has open and `path` named, as a message; None: nothing.

    A file made read-only meanwhile counts, though an open file can still be written: somebody wants it left alone, and
    the next run could not open it.
    """
    try:
        opened = os.fstat(fd)
        named = os.stat(path)
    except OSError as error:
        return f"{path} was deleted or moved while the crawl wrote to it ({reason(error)})."
    if opened.st_nlink == 0 or (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
        return f"{path} was replaced by another file while the crawl wrote to it."
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return f"{path} was made read-only while the crawl wrote to it."
    return None


def reason(error: OSError | ValueError) -> str:
    """The system's words and the name of the code."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"
    return str(error)
