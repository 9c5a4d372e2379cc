"""``--conf`` strings become one checked object, or a message that lists what is valid."""

import pytest

from medai.errors import InputError
from medai.server.settings import ServerSettings


def test_strings_become_numbers_and_flags():
    settings = ServerSettings.from_conf({"train_epochs": "3", "prefetch": "false", "reservation_minutes": "1.5"})
    assert settings.train_epochs == 3
    assert settings.prefetch is False
    assert settings.reservation_minutes == 1.5
    assert settings.device == "auto"


@pytest.mark.parametrize(("text", "value"), [("on", True), ("off", False)])
def test_scoring_in_the_background_is_switched(text: str, value: bool):
    assert ServerSettings.from_conf({"score_in_background": text}).score_in_background is value


def test_nothing_given_is_all_defaults():
    assert ServerSettings.from_conf(None) == ServerSettings()


def test_monai_labels_own_key_is_passed_over():
    assert ServerSettings.from_conf({"server_mode": "true"}) == ServerSettings()


def test_an_unknown_key_lists_every_valid_one():
    with pytest.raises(InputError, match="no 'epochs'") as caught:
        ServerSettings.from_conf({"epochs": "3"})
    assert all(name in str(caught.value) for name in ServerSettings.model_fields)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train_epochs", "0", "greater than or equal to 1"),
        ("train_epochs", "many", "valid integer"),
        ("batch_executor", "slurm", "'inprocess' or 'ray'"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("cache_memory_mb", "1", "greater than or equal to 64"),
        ("prefetch", "perhaps", "valid boolean"),
        ("keep_models", "1", "greater than or equal to 2"),
        ("tracking", "on", "it takes local"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: str, says: str):
    with pytest.raises(InputError, match=f"{key} = '{value}'.*{says}"):
        ServerSettings.from_conf({key: value})
