"""What is refused before the slow start."""

import socket
from pathlib import Path

import pytest

from medai.errors import InputError, NotFoundError, StorageError
from medai.server import launch
from medai.server.launch import LaunchOptions, app_folder, run_server


@pytest.fixture(autouse=True)
def _never_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "_serve", lambda *_, **__: pytest.fail("the server was started"))


def test_no_such_folder(tmp_path: Path):
    with pytest.raises(NotFoundError, match="There is no study folder"):
        run_server(LaunchOptions(studies=tmp_path / "nowhere"))


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="There is no study folder"):
        run_server(LaunchOptions(studies=tmp_path / "file"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\)"):
        run_server(LaunchOptions(studies=tmp_path))


def test_a_taken_port(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} on 127.0.0.1 is taken"):
            run_server(LaunchOptions(studies=tmp_path, port=port))


def test_an_unknown_host(tmp_path: Path):
    with pytest.raises(InputError, match=r"The host 'no\.such\.host\.invalid' is unknown"):
        run_server(LaunchOptions(studies=tmp_path, host="no.such.host.invalid"))


def test_a_wrong_setting(tmp_path: Path):
    with pytest.raises(InputError, match="--conf has no 'colour'"):
        run_server(LaunchOptions(studies=tmp_path, conf={"colour": "blue"}))


def test_the_checkouts_app_is_used_where_there_is_one(tmp_path: Path):
    assert app_folder(tmp_path) == Path(__file__).resolve().parents[3] / "apps" / "medai"


def test_an_installed_package_gives_the_study_its_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site-packages" / "medai"
    (package / "app").mkdir(parents=True)
    (package / "app" / "main.py").write_text("from medai.server.app import MedaiApp\n")
    monkeypatch.setattr(launch.medai, "__file__", str(package / "__init__.py"))
    study = tmp_path / "study"
    folder = app_folder(study)
    assert folder == study / ".medai" / "app"
    assert (folder / "main.py").read_text() == "from medai.server.app import MedaiApp\n"


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_loopback(host: str, loopback: bool):
    assert launch._is_loopback(host) is loopback
