"""The command line as a whole: what it loads, how it fails, what every command offers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from medai.cli.main import app
from medai.cli.output import write_json
from medai.errors import StorageError

HEAVY = ("torch", "monai", "monailabel", "itk", "openvino", "numpy", "scipy", "pydicom", "matplotlib")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medai.cli", *arguments], capture_output=True, text=True, check=False)


def leaf_commands(group, path: tuple[str, ...] = ()):
    if isinstance(group, TyperGroup):
        return [leaf for name, child in group.commands.items() for leaf in leaf_commands(child, (*path, name))]
    return [(path, group)]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom medai.cli.main import main\nsys.argv = ['medai', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serve" in done.stdout
    assert done.stdout.strip().endswith("LOADED []")


def test_every_command_takes_json_and_explains_itself() -> None:
    leaves = leaf_commands(typer.main.get_command(app))
    assert {path[0] for path, _ in leaves} >= {"serve", "import", "infer", "train", "demo", "bench"}
    for path, command in leaves:
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, f"medai {' '.join(path)} has no --json"
        assert command.help, f"medai {' '.join(path)} has no help"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "/no/such/study"), "/no/such/study"),
        (("serve", "/tmp", "--conf", "novalue"), "KEY=VALUE"),
        (("infer", "click", "--image", "x.nii.gz", "--out", "y.nrrd", "--point", "1,2"), "i,j,k"),
        (("infer", "click", "--image", "/no/x.nii.gz", "--out", "y.nrrd", "--point", "1,2,3"), "x.nii.gz"),
        (("infer", "scan", "--out", "y.nrrd"), "--image"),
        (("import", "/no/such/folder", "--to", "/tmp/unused"), "/no/such/folder"),
        (("train", "/no/such/study"), "/no/such/study"),
        (("bench", "click", "--image", "/no/x.nii.gz"), "x.nii.gz"),
        (("frobnicate",), "frobnicate"),
        (("demo", "--cases", "1"), "cases"),
        (("simulate", "retrain", "--data", "/no/such/data", "--out", "/tmp/unused"), "/no/such/data"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("medai: ")
    assert words in lines[0]


def test_json_writes_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_json(target, {"dice": float("nan"), "list": [1.0, float("inf")], "path": Path("x")})
    assert json.loads(target.read_text()) == {"dice": None, "list": [1.0, None], "path": "x"}
    assert list(tmp_path.iterdir()) == [target]


def test_json_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Could not write"):
        write_json(tmp_path / "no" / "result.json", {})
