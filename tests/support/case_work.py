"""Work on cases that costs nothing and leaves a trace on disk of who did what, also where the workers are processes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medai.errors import InputError, ModelError


@dataclass(frozen=True)
class TracedWork:
    """Loads nothing, works for a while, and answers with the case's name in capitals.

    Which case does what is in its name: "bad…" cannot be used, "faulty…" fails each time, "once…" fails the first time,
    "deadly…" kills its worker each time, "slow…" takes ten times as long.
    """

    folder: Path
    seconds: float = 0.0
    refuses_to_load: bool = False
    together: int = 1
    """No case is worked on before so many living processes have loaded: one fast worker must not do everything."""

    def __call__(self) -> TracedWork:
        """Load: the object is its own factory."""
        if self.refuses_to_load:
            raise ModelError("There are no weights.")
        self._note("loaded", "models")
        return self

    def work(self, case_id: str) -> str:
        self._note("begun", case_id)
        while sum(Path("/proc", str(process)).exists() for process in self.processes("loaded")) < self.together:
            time.sleep(0.02)
        time.sleep(self.seconds * (10 if case_id.startswith("slow") else 1))
        if case_id.startswith("bad"):
            raise InputError(f"{case_id} is no scan")
        if case_id.startswith("faulty") or (case_id.startswith("once") and self.count("begun")[case_id] == 1):
            raise ZeroDivisionError("secret")
        if case_id.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("ended", case_id)
        return case_id.upper()

    def count(self, what: str) -> Counter[str]:
        """How often each case was begun, or ended."""
        return Counter(path.name.split("|")[1] for path in self.folder.glob(f"{what}|*"))

    def processes(self, what: str) -> set[int]:
        """The processes that began, or ended, anything."""
        return {int(path.name.split("|")[2]) for path in self.folder.glob(f"{what}|*")}

    def order(self) -> list[str]:
        """The cases in the order in which they were begun."""
        begun = sorted(self.folder.glob("begun|*"), key=lambda path: float(path.read_text()))
        return [path.name.split("|")[1] for path in begun]

    def running(self) -> dict[int, str]:
        """What each process is at: begun and not ended."""
        begun = {path.name.removeprefix("begun") for path in self.folder.glob("begun|*")}
        ended = {path.name.removeprefix("ended") for path in self.folder.glob("ended|*")}
        return {int(name.split("|")[2]): name.split("|")[1] for name in begun - ended}

    def _note(self, what: str, case_id: str) -> None:
        number = len(list(self.folder.glob(f"{what}|{case_id}|{os.getpid()}|*")))
        (self.folder / f"{what}|{case_id}|{os.getpid()}|{number}").write_text(f"{time.monotonic():.6f}")


@dataclass(frozen=True)
class MakeTracedWork:
    """Makes the work above ready: what an executor is given."""

    work: TracedWork

    def __call__(self):
        return self.work().work
