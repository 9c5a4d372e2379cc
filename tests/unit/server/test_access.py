"""Who an annotator is, for reservations."""

import pytest

from medai.server.access import annotator_of


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_on_this_machine_the_name_counts(host: str) -> None:
    assert annotator_of("anna", host) == "anna"


def test_two_machines_are_two_annotators_whatever_they_call_themselves() -> None:
    assert annotator_of("user-xyz", "10.0.0.4") != annotator_of("user-xyz", "10.0.0.5")
    assert annotator_of("anna", "10.0.0.4") != annotator_of("ben", "10.0.0.4")
