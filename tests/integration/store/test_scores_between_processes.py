"""Several processes score one study, one of them is killed, and every score that was put is whole."""

import signal
import subprocess
import sys
import time

from tests.support.score_factory import case_score

from medai.store.scores import ScoreStore

SCORER = """
import pathlib, sys
from tests.support.score_factory import candidate, case_score
from medai.store.scores import ScoreStore
store, name = ScoreStore(pathlib.Path(sys.argv[1])), sys.argv[2]
for n in range(int(sys.argv[3])):
    store.put(case_score(f"{name}-{n}", candidate(0.5), candidate(0.25), at=[1.0, 2.0]))
    print(n, flush=True)
"""


def scorer(study, name, count):
    return subprocess.Popen([sys.executable, "-c", SCORER, study, name, str(count)], stdout=subprocess.PIPE, text=True)


def test_what_processes_put_is_all_there(tmp_path):
    processes = [scorer(tmp_path, f"p{n}", 40) for n in range(3)]
    assert [process.communicate()[0].count("\n") for process in processes] == [40, 40, 40]
    table = ScoreStore(tmp_path).table()
    assert len(table) == 120
    assert table.candidate_counts.tolist() == [2] * 120


def test_a_killed_scorer_leaves_the_last_good_state_and_blocks_nobody(tmp_path):
    reader = ScoreStore(tmp_path)
    process = scorer(tmp_path, "killed", 100_000)
    done = [int(next(process.stdout)) for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    reader.put(case_score("after"))
    assert time.monotonic() - started < 25, "the killed process's lock is still there"
    table = reader.table()
    assert {f"killed-{n}" for n in done} | {"after"} <= set(table.case_ids)
    assert all(len(table.case(case_id).candidates) == 2 for case_id in table.case_ids if case_id != "after")
