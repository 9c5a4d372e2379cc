"""Processes that place patients at the same time agree for good."""

import multiprocessing

from medai.store.split import FrozenSplit

context = multiprocessing.get_context("fork")


def place_many(folder, numbers, answers):
    split = FrozenSplit(folder)
    answers.put({f"p{n}": split.place(f"p{n}") for n in numbers})


def test_processes_that_place_at_once_agree(tmp_path):
    answers = context.Queue()
    orders = [range(40), range(39, -1, -1), [*range(20, 40), *range(20)]]
    children = [context.Process(target=place_many, args=(tmp_path, order, answers)) for order in orders]
    for child in children:
        child.start()
    placed = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert placed[0] == placed[1] == placed[2]
    assert placed[0] == FrozenSplit(tmp_path).place_all(f"p{n}" for n in range(40))
    assert set(placed[0].values()) == {"train", "validation", "test"}
