"""Networks are loaded once a version, and the former one answers while a new one is no good."""

import threading
import time

import pytest
from tests.support.fake_models import SwappableRegistry

from medai.errors import ModelError, NotFoundError
from medai.server.model_shelf import ModelShelf


def test_a_version_is_loaded_once_and_replaced_when_published():
    registry, loads = SwappableRegistry(), []
    shelf = ModelShelf(
        registry, {"nodule_click": lambda version: loads.append(version.version_id) or version.version_id}
    )
    assert [shelf.get("nodule_click").model for _ in range(3)] == ["v1"] * 3
    registry.versions["nodule_click"] = "v2"
    assert shelf.get("nodule_click").version_id == "v2"
    assert loads == ["v1", "v2"]


def test_many_threads_load_once():
    loads = []

    def load(version) -> str:
        time.sleep(0.05)
        loads.append(version)
        return "model"

    shelf = ModelShelf(SwappableRegistry(), {"nodule_click": load})
    threads = [threading.Thread(target=shelf.get, args=("nodule_click",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_a_version_that_cannot_be_loaded_leaves_the_former_answering():
    registry, tries = SwappableRegistry(), []

    def load(version) -> str:
        tries.append(version.version_id)
        if version.version_id == "v2":
            raise ModelError("damaged")
        return version.version_id

    shelf = ModelShelf(registry, {"nodule_click": load})
    shelf.get("nodule_click")
    registry.versions["nodule_click"] = "v2"
    assert [shelf.get("nodule_click").model for _ in range(3)] == ["v1"] * 3
    assert tries == ["v1", "v2"]
    registry.versions["nodule_click"] = "v3"
    assert shelf.get("nodule_click").model == "v3"


def test_no_weights_and_no_such_task():
    registry = SwappableRegistry(versions={})
    shelf = ModelShelf(registry, {"nodule_click": lambda _: "x"})
    with pytest.raises(ModelError, match="no weights"):
        shelf.get("nodule_click")
    assert shelf.version_id("nodule_click") == ""
    with pytest.raises(NotFoundError, match="nodule_click"):
        shelf.get("other")
