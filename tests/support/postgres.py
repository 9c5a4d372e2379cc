"""A PostgreSQL server of the tests' own, where one is installed: no network, a socket in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

UNPRIVILEGED = ("postgres", "nobody")
"""PostgreSQL refuses to run as root."""


def postgres_url(folder: Path) -> Iterator[str]:
    """Start a server, give the URL of an empty database, stop it; skips where that cannot be."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    tools = _tools()
    prefix, user = _as_user()
    # A socket's path has about 100 bytes at most, and a temporary folder of pytest is its owner's alone.
    home = Path(tempfile.mkdtemp(prefix="medai-pg-"))
    if prefix:
        shutil.chown(home, user)
    run = [*prefix, str(tools / "pg_ctl"), "-D", str(home / "db"), "-w"]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        made = [
            *prefix,
            str(tools / "initdb"),
            "-D",
            str(home / "db"),
            "-U",
            "medai",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(made, check=True, capture_output=True, cwd=home, env=environment)
        options = f"-c listen_addresses='' -k {home}"
        started = [*run, "-o", options, "-l", str(home / "log"), "start"]
        subprocess.run(started, check=True, stdout=subprocess.DEVNULL, cwd=home, env=environment)
        try:
            yield f"postgresql+psycopg://medai@/postgres?host={home}"
        finally:
            subprocess.run([*run, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _tools() -> Path:
    on_path = shutil.which("initdb")
    # Debian keeps them off the path.
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL (initdb) is not installed")
    return found[-1].parent


def _as_user() -> tuple[list[str], str]:
    if os.geteuid() != 0:
        return [], ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in UNPRIVILEGED if name in names), None)
    if user is None or shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses root, and there is no other user to run it as")
    return ["runuser", "-u", user, "--"], user
