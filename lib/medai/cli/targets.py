"""Where a command is to write, asked before its work: an hour of training must not end at a folder that is a file.

The functions are callbacks of options; each gives the path back or raises what the command line says in one line.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from medai.errors import InputError, StorageError


def output_file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Check the file that an option names; see ``check_file``."""
    if value is not None and str(value) != "-":
        check_file(value, option=_name(param))
    return value


def check_file(path: Path, *, option: str) -> None:
    """Check a file to be written, new or replaced.

    Args:
        path: the file.
        option: what named it, for messages.

    Raises:
        InputError: it is a folder, or its folder is not there.
        StorageError: its folder cannot be written to.
    """
    with _disk_says(option, path):
        if path.is_dir():
            raise InputError(f"Could not write {path}: it is a folder, and {option} takes a file. Name a file in it.")
        folder = path.absolute().parent
        if not folder.is_dir():
            kind = "a file" if folder.exists() else "not there"
            raise InputError(
                f"Could not write {path} ({option}): {folder} is {kind}. Make the folder, or name another."
            )
        _try_to_write(folder)


def output_folder(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Check a folder to be written to; what is missing of it is made by the command.

    Raises:
        InputError: it, or what it is to lie in, is a file.
        StorageError: it cannot be written to.
    """
    if value is None:
        return value
    name = _name(param)
    with _disk_says(name, value):
        folder = value.absolute()
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise InputError(
                f"Could not write {value}: {folder} is a file, and {name} takes a folder. Name another folder."
            )
        _try_to_write(folder)
    return value


def output_file_or_folder(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Check what may be a file or a folder, new or there already.

    Raises:
        InputError: what it is to lie in is a file.
        StorageError: it cannot be written to.
    """
    if value is not None and value.is_file():
        return output_file(param, value)
    return output_folder(param, value)


def _name(param: typer.CallbackParam) -> str:
    return next((option for option in param.opts if option.startswith("--")), (param.name or "").upper())


def _try_to_write(folder: Path) -> None:
    # Permissions alone do not tell: not of a read-only disk, nor to an administrator.
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def _disk_says(name: str, value: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Could not write {value} ({name}): {error.strerror or error}. Name a place you can write to."
        ) from error
