"""``medai score`` with models that cost nothing: ``python -m tests.support.fake_scoring TRACE SECONDS TOGETHER …``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from tests.support.case_work import TracedWork
from tests.support.score_factory import candidate, case_score

from medai.domain.case_score import CaseScore

VERSIONS = {"nodule_click": "starter", "nodule_detection": "starter", "nodule_classification": "starter"}


@dataclass(frozen=True)
class MakeFakeScorer:
    """In place of ``workflows.score_pool.MakeScorer``."""

    work: TracedWork

    def __call__(self) -> Callable[[str], CaseScore]:
        work = self.work()

        def score(case_id: str) -> CaseScore:
            work.work(case_id)
            return case_score(case_id, candidate(0.5), versions=VERSIONS)

        return score


def main() -> None:
    """Run the command line."""
    from medai.cli.main import main as medai
    from medai.workflows import score_pool

    work = TracedWork(folder=Path(sys.argv[1]), seconds=float(sys.argv[2]), together=int(sys.argv[3]))
    sys.argv = ["medai", *sys.argv[4:]]
    with patch.object(score_pool, "MakeScorer", lambda **_: MakeFakeScorer(work)):
        medai()


if __name__ == "__main__":
    main()
