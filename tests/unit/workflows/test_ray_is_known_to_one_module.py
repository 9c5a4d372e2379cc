"""Ray is an extra: nothing but its own module may need it."""

import re
from pathlib import Path

import medai


def test_ray_is_imported_in_one_module_and_there_late():
    package = Path(medai.__file__).parent
    importing = [
        path for path in package.rglob("*.py") if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)
    ]
    assert [path.name for path in importing] == ["ray_executor.py"]
    assert not re.search(r"^(import|from) ray\b", importing[0].read_text(), re.MULTILINE)
