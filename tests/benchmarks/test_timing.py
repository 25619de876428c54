from __future__ import annotations

from benchmarks.timing import alternating, ratio


def test_bodies_take_turns_after_a_call_that_does_not_count() -> None:
    order: list[str] = []
    bodies = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = alternating(bodies, 3)
    assert "".join(order) == "ab" + "ab" * 3
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_round_by_round() -> None:
    found = ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)
    assert str(found) == "2.00 (1.00 to 3.00)"
