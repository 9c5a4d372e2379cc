"""What ``medai annotators`` shows."""

import io

from rich.console import Console

from medai.cli.annotators import show_annotators
from medai.evaluation.agreement import OverlapWithPeers, PairAgreement, RatingAgreement, VolumeBias
from medai.evaluation.dice import MeanInterval
from medai.workflows.annotators import AnnotatorsReport, AnnotatorSummary


def interval(mean, low, high):
    return MeanInterval(mean=mean, low=low, high=high, cases=6, patients=6)


def test_the_biased_and_the_outlying_annotator_are_named_with_what_to_do():
    bias = VolumeBias(
        reader="large",
        log_ratio=interval(0.405, 0.34, 0.47),
        against_peers=6,
        against_model=0,
        is_biased=True,
        is_disputed=False,
    )
    overlap = OverlapWithPeers(
        reader="mal[1]", dice=interval(0.1, 0.0, 0.2), limit=0.75, is_outlier=True, against_peers=6
    )
    nobody = {"cases": 6, "nodules": 7, "staple": None}
    report = AnnotatorsReport(
        annotators=(
            AnnotatorSummary(name="large", quarantined=0, bias=bias, overlap=None, **nobody),
            AnnotatorSummary(name="mal[1]", quarantined=2, bias=None, overlap=overlap, **nobody),
        ),
        pairs=(
            PairAgreement(
                first="large",
                second="mal[1]",
                cases=6,
                both=1,
                only_first=5,
                only_second=5,
                detection=1 / 6,
                dice=interval(0.4, 0.4, 0.4),
            ),
        ),
        ratings=(
            RatingAgreement(attribute="malignancy", first="large", second="mal[1]", nodules=6, kappa=float("nan")),
        ),
        cases=6,
        shared_cases=6,
        margin=0.1,
        skipped={"id7": "It is in 900 parts: noise, not an outline."},
    )
    text = io.StringIO()
    show_annotators(Console(file=text, width=200), report)
    shown = " ".join(text.getvalue().split())
    assert "+50 % (+40 to +60) biased" in shown
    assert "0.10 (0.00 to 0.20) outlier" in shown
    assert "6 (2 in quarantine)" in shown
    assert "malignancy: large, mal[1]: weighted kappa –" in shown
    assert "large outlines too large" in shown
    assert "flag or correct them before the next training" in shown
    assert "left out id7: It is in 900 parts" in shown
