"""Where a command cannot write is said in one line before its work, whatever the command and the option."""

import errno
import tempfile

import pytest

from medai.cli import main, targets

COMMANDS = {
    "train --out": (("train", "nodule_click", "--data", "/no/data", "--out"), "folder"),
    "simulate retrain --out": (("simulate", "retrain", "--data", "/no/data", "--out"), "folder"),
    "simulate active-learning --out": (("simulate", "active-learning", "--data", "/no/data", "--out"), "folder"),
    "evaluate --plots": (("evaluate", "detection", "--data", "/no/data", "--plots"), "folder"),
    "demo": (("demo",), "folder"),
    "phantom study": (("phantom", "study"), "folder"),
    "phantom detection": (("phantom", "detection"), "folder"),
    "infer click --out": (("infer", "click", "--image", "/no/scan.nii.gz", "--point", "1,2,3", "--out"), "file"),
    "infer click --picture": (
        ("infer", "click", "--image", "/no/scan", "--point", "1,2,3", "--out", "label.nrrd", "--picture"),
        "file",
    ),
    "infer scan --out": (("infer", "scan", "--image", "/no/scan.nii.gz", "--out"), "either"),
    "annotators --picture": (("annotators", "/no/study", "--picture"), "file"),
    "serve --json": (("serve", "/no/study", "--json"), "file"),
    "status --json": (("status", "/no/study", "--json"), "file"),
    "models list --json": (("models", "list", "--json"), "file"),
    "score --json": (("score", "/no/study", "--json"), "file"),
    "import --json": (("import", "/no/source", "--to", "/no/study", "--json"), "file"),
    "bench click --json": (("bench", "click", "--json"), "file"),
}


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["medai", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        return stopped.value.code, capsys.readouterr().err

    return command


def check_refused(answer, *words):
    code, said = answer
    assert code == 2
    assert said.startswith("medai: Could not write")
    assert said.count("\n") == 1
    for word in words:
        assert word in said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_inside_a_file_is_refused(tmp_path, run, name):
    (tmp_path / "file").write_text("mine")
    check_refused(run(*COMMANDS[name][0], str(tmp_path / "file" / "x.nrrd")), "a file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [name for name, (_, kind) in COMMANDS.items() if kind == "folder"])
def test_an_existing_file_is_no_folder(tmp_path, run, name):
    (tmp_path / "file").write_text("mine")
    check_refused(run(*COMMANDS[name][0], str(tmp_path / "file")), "takes a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [name for name, (_, kind) in COMMANDS.items() if kind == "file"])
def test_a_folder_is_no_file_and_a_missing_folder_is_named(tmp_path, run, name):
    check_refused(run(*COMMANDS[name][0], str(tmp_path)), "takes a file")
    check_refused(run(*COMMANDS[name][0], str(tmp_path / "no" / "x.nrrd")), f"{tmp_path / 'no'} is not there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_disk_is_said(tmp_path, run, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(targets.tempfile, "TemporaryFile", refuse)
    check_refused(run(*COMMANDS[name][0], str(tmp_path / "x.nrrd")), "Read-only file system", "you can write to")


def test_the_check_leaves_nothing_behind(tmp_path):
    targets.check_file(tmp_path / "new.json", option="--json")
    assert list(tmp_path.iterdir()) == []
    assert tempfile.TemporaryFile is targets.tempfile.TemporaryFile


@pytest.mark.parametrize(("option", "name"), [("--out", "label.txt"), ("--picture", "view.gif")])
def test_an_ending_that_is_not_written_is_refused_before_the_scan_is_read(tmp_path, run, option, name):
    given = {"--out": str(tmp_path / "label.nrrd"), option: str(tmp_path / name)}
    flat = [part for pair in given.items() for part in pair]
    code, said = run("infer", "click", "--image", "/no/scan.nii.gz", "--point", "1,2,3", *flat)
    assert code == 2
    assert f"{option} is '{tmp_path / name}'; its name ends in one of" in said


def test_a_disk_that_fails_in_the_middle_is_one_line(monkeypatch, run, tmp_path):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "weights"))

    monkeypatch.setattr("medai.workflows.models.open_registry", fail)
    code, said = run("models", "list")
    assert code == 2
    assert said.startswith(f"medai: {tmp_path / 'weights'}: Input/output error.")
