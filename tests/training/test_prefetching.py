import threading

import pytest

from flower_ddim.training.prefetching import Prefetcher


def test_what_comes_next_is_made_meanwhile_and_once():
    made, all_made = [], threading.Event()

    def make(number):
        made.append((number, threading.current_thread()))
        if len(made) == 4:
            all_made.set()
        return number**2

    prefetcher = Prefetcher(make, ahead=3)
    assert prefetcher(5) == 25
    assert all_made.wait(60)
    assert sorted(number for number, _ in made) == [5, 6, 7, 8]
    assert threading.main_thread() not in {thread for _, thread in made}
    assert [prefetcher(number) for number in (6, 7, 2)] == [36, 49, 4]  # a resumed run begins elsewhere
    assert len([number for number, _ in made if number == 7]) == 1


def test_a_failure_is_raised_where_its_result_is_asked_for():
    prefetcher = Prefetcher(lambda number: 1 / (number - 1), ahead=2)
    assert prefetcher(0) == -1
    with pytest.raises(ZeroDivisionError):
        prefetcher(1)
