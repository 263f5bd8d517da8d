"""Results on disk: JSON with a kind and a version, written whole or not at all."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp.errors import CannotWrite, DamagedFile, InvalidInput, MissingFile, WrongVersion

# The mask can only be read by setting it, for all threads: once, before there are any.
UMASK = os.umask(0)
os.umask(UMASK)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all: see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all, through a temporary file and a rename.

    Raises:
        InvalidInput: the directory does not exist, or the path is one.
        CannotWrite: the disk is full, or the directory cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidInput(f"cannot write {target}: there is no directory {target.parent}.")
    if target.is_dir():
        raise InvalidInput(f"cannot write {target}: it is a directory.")
    return write_whole(target, content)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that it is there whole or not at all, whenever this process is killed.

    Raises:
        CannotWrite: the disk is full, a limit was met, or the directory cannot be written.
    """
    partial = None
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            # Without it, a machine that loses power may keep the name and not the content.
            os.fsync(file.fileno())
        # mkstemp makes private files; results are meant to be shared like any other.
        os.chmod(partial, 0o666 & ~UMASK)
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            with suppress(OSError):
                Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CannotWrite(f"{path} cannot be written: {error.strerror or error}.") from error
        raise
    return path


def save_json(path: str | Path, kind: str, version: int, content: dict[str, Any]) -> Path:
    """Write a result under its kind and the version of its form."""
    whole = {"kind": kind, "version": version, **content}
    return write_text(path, json.dumps(whole, allow_nan=False) + "\n")


def load_json(path: str | Path, kind: str, version: int) -> dict[str, Any]:
    """Read what `save_json` wrote.

    Raises:
        DamagedFile: not JSON, or not a result of this kind.
        WrongVersion: written in another version of the form.
        MissingFile: there is no such file.
    """
    try:
        whole = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file.") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not whole: {error}. Make it again.") from None
    stored_kind = whole.get("kind") if isinstance(whole, dict) else None
    if stored_kind != kind:
        raise DamagedFile(f"{path} holds {stored_kind or 'something else'}; a file of kind {kind!r} was asked for.")
    if whole.get("version") != version or isinstance(whole.get("version"), bool):
        raise WrongVersion(
            f"{path} is of version {whole.get('version')} of {kind!r}; this release reads version {version}. "
            "Make it again, or read it with the release that wrote it."
        )
    return whole
