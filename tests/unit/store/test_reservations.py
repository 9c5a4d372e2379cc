"""Who gets which case, on a clock the tests move by hand."""

import json
import threading

import pytest

from medai.errors import ConflictError
from medai.store.clock import Moment, machine_now
from medai.store.reservations import Offer, Reservations, next_of_patient, without_others_patients


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reservations(tmp_path, clock):
    return Reservations(tmp_path, ttl_s=600, now=clock)


def ask(reservations, client, cases=("a", "b", "c")):
    return reservations.choose(client, open_cases=lambda: cases, select=lambda offer: offer.free[0])


def test_two_clients_never_get_the_same_case(reservations):
    assert [ask(reservations, client) for client in ("ann", "ben", "cleo", "dora")] == ["a", "b", "c", None]


def test_next_means_next_and_what_was_skipped_comes_back_last_oldest_first(reservations):
    assert ask(reservations, "ben") == "a"
    assert [ask(reservations, "ann") for _ in range(4)] == ["b", "c", "b", "c"]
    assert reservations.skipped("ann") == ["c", "b"]


def test_a_skipped_case_is_free_for_others_at_once(reservations):
    assert [ask(reservations, "ann") for _ in range(2)] == ["a", "b"]
    assert reservations.all_skipped() == {"ann": ["a"]}
    assert ask(reservations, "ben") == "a"
    # Nothing but a is left for ann, and ben has it.
    assert [ask(reservations, "ann") for _ in range(3)] == ["c", "b", "c"]


def test_skips_outlive_a_restart_but_not_a_month(reservations, tmp_path, clock):
    ask(reservations, "ann")
    ask(reservations, "ann")
    assert Reservations(tmp_path, ttl_s=600, now=clock).skipped("ann") == ["a"]
    clock.now += 31 * 24 * 3600
    assert ask(reservations, "ann") == "a"


def test_a_click_in_a_second_window_takes_a_skipped_case_back(reservations):
    assert [ask(reservations, "ann") for _ in range(2)] == ["a", "b"]
    assert reservations.renew("a", "ann")
    assert (reservations.holder("a"), reservations.holder("b")) == ("ann", "ann")
    assert reservations.skipped("ann") == []


def test_a_click_takes_nothing_back_that_somebody_else_has(reservations):
    assert [ask(reservations, "ann") for _ in range(2)] == ["a", "b"]
    assert ask(reservations, "ben") == "a"
    assert not reservations.renew("a", "ann")
    assert reservations.holder("a") == "ben"


def test_a_crashed_client_frees_its_case(reservations, clock):
    assert ask(reservations, "ann") == "a"
    assert ask(reservations, "ben") == "b"
    clock.now += 601
    # Never heard of again: nobody has skipped it, whoever asks next gets it.
    assert ask(reservations, "cleo") == "a"
    assert reservations.all_skipped() == {}


def test_what_a_client_submitted_last_is_in_its_next_offer(reservations):
    offers = []

    def select(offer):
        offers.append(offer)
        return offer.free[0]

    def asked(client):
        return reservations.choose(client, open_cases=lambda: ("a", "b", "c"), select=select)

    asked("ann")
    reservations.submitted("a")
    asked("ben")
    asked("ann")
    assert [offer.submitted for offer in offers] == [None, None, "a"]
    assert offers[2].held == ("a",)
    assert offers[2].free == ["b", "c"]


def test_a_submitted_case_is_no_skipped_one(reservations):
    assert [ask(reservations, "ann") for _ in range(2)] == ["a", "b"]
    reservations.submitted("a")
    assert reservations.skipped("ann") == []


def offer(free, *, held=(), submitted=None):
    return Offer(free=free, held=held, submitted=submitted)


def siblings_of(*patients):
    return lambda case_id: {other for cases in patients if case_id in cases for other in cases} - {case_id}


def test_the_other_study_of_the_patient_comes_next():
    siblings = siblings_of({"a1", "a2", "a3"}, {"b1"})
    assert next_of_patient(offer(["a3", "a2", "b1"], submitted="a1"), siblings) == "a2"
    assert next_of_patient(offer(["b1"], submitted="a1"), siblings) is None
    assert next_of_patient(offer(["a2"]), siblings) is None


def test_nobody_is_sent_to_anothers_patient_while_there_are_others():
    siblings = siblings_of({"a1", "a2"}, {"b1"})
    assert list(without_others_patients(offer(["a2", "b1"], held=("a1",)), siblings)) == ["b1"]
    assert list(without_others_patients(offer(["a2"], held=("a1",)), siblings)) == ["a2"]


def test_a_submitted_case_is_free_and_is_not_handed_out_again(reservations):
    assert ask(reservations, "ann") == "a"
    reservations.release("a")
    assert ask(reservations, "ben", cases=("b", "c")) == "b"
    assert [r.case_id for r in reservations.active()] == ["b"]


def test_a_skipped_case_that_was_labelled_meanwhile_does_not_come_back(reservations):
    ask(reservations, "ann")
    assert ask(reservations, "ann", cases=()) is None


def test_a_reservation_ends_after_its_time(reservations, clock):
    assert ask(reservations, "ann") == "a"
    clock.now += 599
    assert ask(reservations, "ben") == "b"
    clock.now += 2
    assert reservations.holder("a") is None
    assert ask(reservations, "cleo") == "a"


def test_renewing_keeps_a_case_and_a_lost_one_is_not_renewed(reservations, clock):
    ask(reservations, "ann")
    for _ in range(5):
        clock.now += 500
        assert reservations.renew("a", "ann")
    assert reservations.holder("a") == "ann"
    assert not reservations.renew("a", "ben")
    clock.now += 601
    assert not reservations.renew("a", "ann")


def test_renewing_again_at_once_does_not_write(reservations, tmp_path, clock):
    ask(reservations, "ann")
    before = (tmp_path / ".medai/reservations.json").stat().st_mtime_ns
    clock.now += 1
    assert reservations.renew("a", "ann")
    assert (tmp_path / ".medai/reservations.json").stat().st_mtime_ns == before


def test_a_case_can_be_reserved_by_name(reservations):
    assert reservations.reserve("a", "ann").until_s == 1600
    assert reservations.reserve("a", "ann").client_id == "ann"
    with pytest.raises(ConflictError, match="annotated by another client, for at most 10 more minutes"):
        reservations.reserve("a", "ben")


def test_reservations_survive_a_restart(reservations, tmp_path, clock):
    ask(reservations, "ann")
    assert Reservations(tmp_path, ttl_s=600, now=clock).holder("a") == "ann"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cases": []}', '{"cases": {"a": {}}}', '{"cases": {"a": 1}}'])
def test_a_damaged_record_does_not_stop_the_work(reservations, tmp_path, content):
    (tmp_path / ".medai/reservations.json").write_text(content)
    assert ask(reservations, "ann") == "a"
    assert json.loads((tmp_path / ".medai/reservations.json").read_text())["cases"].keys() == {"a"}


def test_threads_that_ask_at_once_all_get_different_cases(reservations):
    cases = tuple(f"case_{n:02d}" for n in range(16))
    given, barrier = [], threading.Barrier(16)

    def work(client):
        barrier.wait()
        given.append(ask(reservations, client, cases))

    threads = [threading.Thread(target=work, args=(f"client {n}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == sorted(cases)


# -- clocks that jump --------------------------------------------------------------------------------------------------

DAY = 24 * 3600.0


@pytest.mark.parametrize("jump_s", [-DAY, -3600.0, DAY])
def test_by_the_wall_clock_alone_no_jump_holds_a_case_longer_than_its_time(reservations, clock, jump_s):
    assert ask(reservations, "ann", ("a",)) == "a"
    clock.now += jump_s
    clock.now += 601
    assert reservations.active() == []
    assert ask(reservations, "ben", ("a",)) == "a"


def test_a_clock_put_right_by_seconds_ends_nothing(reservations, clock):
    ask(reservations, "ann", ("a",))
    clock.now -= 3
    assert reservations.holder("a") == "ann"
    assert ask(reservations, "ben", ("a",)) is None


class Machine:
    """A machine whose wall clock jumps while it stays up."""

    def __init__(self):
        self.moment = Moment(wall_s=5e8, up_s=100.0, boot_id="first")

    def __call__(self):
        return self.moment

    def passes(self, seconds, *, jump_s=0.0, boot_id=None):
        up_s = seconds if boot_id else self.moment.up_s + seconds
        self.moment = Moment(
            wall_s=self.moment.wall_s + seconds + jump_s, up_s=up_s, boot_id=boot_id or self.moment.boot_id
        )


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr("medai.store.reservations.machine_now", machine)
    return machine


@pytest.mark.parametrize("jump_s", [-DAY, DAY, -400.0, 400.0])
def test_a_jump_while_the_machine_is_up_neither_ends_nor_stretches_a_reservation(tmp_path, machine, jump_s):
    reservations = Reservations(tmp_path, ttl_s=600)
    ask(reservations, "ann", ("a",))
    machine.passes(300, jump_s=jump_s)
    held = reservations.active()[0]
    assert (held.client_id, reservations.seconds_held(held)) == ("ann", 300)
    with pytest.raises(ConflictError, match="at most 5 more minutes"):
        reservations.reserve("a", "ben")
    assert reservations.renew("a", "ann")
    machine.passes(599)
    assert Reservations(tmp_path, ttl_s=60).holder("a") == "ann"
    machine.passes(2)
    assert ask(reservations, "ben", ("a",)) == "a"


def test_after_a_restart_with_a_wrong_clock_nothing_is_held_from_the_future(tmp_path, machine):
    reservations = Reservations(tmp_path, ttl_s=600)
    ask(reservations, "ann", ("a",))
    machine.passes(30, boot_id="second", jump_s=-DAY)
    assert reservations.active() == []
    machine.passes(30, boot_id="third", jump_s=DAY)
    assert reservations.holder("a") == "ann"


def test_a_record_of_before_moments_were_kept_is_read(tmp_path, clock):
    record = {"client_id": "ann", "since_s": 900.0, "until_s": 1500.0}
    folder = tmp_path / ".medai"
    folder.mkdir()
    (folder / "reservations.json").write_text(json.dumps({"cases": {"a": record}}))
    reservations = Reservations(tmp_path, ttl_s=600, now=clock)
    assert reservations.holder("a") == "ann"
    clock.now = 600.0
    assert reservations.holder("a") is None


def test_a_skip_from_the_future_is_forgotten_a_month_from_now(reservations, tmp_path, clock):
    clock.now += 400 * DAY
    assert [ask(reservations, "ann", ("a", "b")) for _ in range(2)] == ["a", "b"]
    clock.now -= 400 * DAY
    assert ask(reservations, "ann", ("a", "b")) == "b"
    assert reservations.skipped("ann") == ["a"]
    clock.now += 31 * DAY
    assert reservations.skipped("ann") == []


def test_the_time_up_is_the_same_for_all_processes_and_goes_on():
    first = machine_now()
    second = machine_now()
    assert 0 <= first.seconds_until(second) < 5
    assert first.boot_id == second.boot_id
