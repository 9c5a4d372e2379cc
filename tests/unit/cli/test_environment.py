import os
import subprocess
import sys

from medai.cli.environment import NO_REPORTS, THREAD_DEFAULTS, set_library_defaults


def test_what_the_user_has_set_stays():
    environment = {"OMP_WAIT_POLICY": "ACTIVE", "HOME": "/home/ann"}
    set_library_defaults(environment)
    assert environment == {**THREAD_DEFAULTS, **NO_REPORTS, "OMP_WAIT_POLICY": "ACTIVE", "HOME": "/home/ann"}


def test_the_command_sets_them_before_numpy_and_torch_are_imported():
    code = (
        "import os, sys\n"
        "import medai.cli.main as command\n"
        "loaded = {'numpy', 'torch'} & set(sys.modules)\n"
        "command.app = lambda **_: print(os.environ['OPENBLAS_NUM_THREADS'], loaded)\n"
        "command.main()"
    )
    own = {name: value for name, value in os.environ.items() if name not in THREAD_DEFAULTS}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, check=True)
    assert ran.stdout.split(maxsplit=1) == ["1", "set()\n"]
