"""Each lane has its own threads; a full one refuses."""

import asyncio
import threading
from http import HTTPStatus

import pytest
from fastapi import HTTPException

from medai.server import lanes
from medai.server.lanes import Lane, Lanes


@pytest.fixture
def four() -> Lanes:
    return Lanes(click_workers=1, scan_workers=1)


def test_a_full_lane_does_not_hold_up_another(four: Lanes):
    go_on = threading.Event()

    async def play() -> str:
        scan = asyncio.create_task(four.run(Lane.SCAN, go_on.wait, 20))
        await asyncio.sleep(0)
        answers = [await four.run(lane, lambda: "here") for lane in (Lane.QUICK, Lane.CLICK, Lane.TRANSFER)]
        assert not scan.done()
        go_on.set()
        await scan
        return "".join(answers)

    assert asyncio.run(play()) == "hereherehere"
    assert set(four.waiting().values()) == {0}
    assert set(four.waiting()) == {"quick", "transfer", "click", "scan", "login"}


def test_what_a_call_raises_is_raised_to_the_caller(four: Lanes):
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        asyncio.run(four.run(Lane.QUICK, fail))


def test_too_many_waiting_are_refused(four: Lanes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes, "LONGEST_QUEUE", 2)
    go_on = threading.Event()
    futures = [four.submit(Lane.SCAN, go_on.wait, 20) for _ in range(3)]
    with pytest.raises(HTTPException) as refused:
        four.submit(Lane.SCAN, go_on.wait)
    assert refused.value.status_code == HTTPStatus.TOO_MANY_REQUESTS
    go_on.set()
    assert all(future.result(10) for future in futures)
    assert four.submit(Lane.SCAN, lambda: 1).result(10) == 1


def test_a_closed_lane_refuses(four: Lanes):
    four.close()
    with pytest.raises(HTTPException, match="shutting down"):
        four.submit(Lane.CLICK, lambda: 1)
    assert four.waiting()["click"] == 0
