"""Who an annotator is, for reservations and for the history."""

import pytest

from medai.server.access import User, annotator_name, annotator_of, platform


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_on_this_machine_the_name_counts(host: str) -> None:
    assert annotator_of("anna", host) == "anna"


def test_two_machines_are_two_annotators_whatever_they_call_themselves() -> None:
    assert annotator_of("user-xyz", "10.0.0.4") != annotator_of("user-xyz", "10.0.0.5")
    assert annotator_of("anna", "10.0.0.4") != annotator_of("ben", "10.0.0.4")


@pytest.mark.parametrize(
    ("is_authenticated", "client_id", "name"), [(True, "user-xyz", "anna"), (False, "ben", "ben"), (False, "", "")]
)
def test_the_history_names_the_authenticated_user_else_whom_the_client_says(
    monkeypatch: pytest.MonkeyPatch, is_authenticated: bool, client_id: str, name: str
) -> None:
    monkeypatch.setattr(platform, "MONAI_LABEL_AUTH_ENABLE", is_authenticated)
    assert annotator_name(User(username="anna"), client_id, "127.0.0.1") == name
