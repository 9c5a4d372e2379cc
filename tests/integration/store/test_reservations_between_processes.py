"""Annotators on several processes ask for cases at the same time."""

import json
import subprocess
import sys

ANNOTATOR = """
import json, pathlib, sys
from medai.store.reservations import Reservations
study, client, count = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cases = [f"case_{n:03d}" for n in range(int(sys.argv[4]))]
reservations = Reservations(study)
first = lambda offer: offer.free[0]
asked = [(f"{client} {n}", dict(open_cases=lambda: cases, select=first)) for n in range(count)]
print(json.dumps([reservations.choose(who, **how) for who, how in asked]))
"""


def test_no_case_is_given_to_two_processes(tmp_path):
    workers, count = 4, 15
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ANNOTATOR, tmp_path, f"client {w}", str(count), str(workers * count)],
            stdout=subprocess.PIPE,
        )
        for w in range(workers)
    ]
    given = [case_id for process in processes for case_id in json.loads(process.communicate()[0])]
    assert sorted(given) == [f"case_{n:03d}" for n in range(workers * count)]
