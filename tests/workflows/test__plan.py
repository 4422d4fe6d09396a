from __future__ import annotations

from vivace.workflows._plan import Plan


def test_phases_add_up_and_never_go_back() -> None:
    told: list[tuple[str, float]] = []
    plan = Plan(lambda message, share: told.append((message, share)), 10.0)
    first = plan.phase("one", 4.0)
    first("half", 0.5)
    first("too much", 7.0)
    plan.phase("two", 6.0)("end", 1.0)
    assert [share for _, share in told] == [0.0, 0.2, 0.4, 0.4, 1.0]
    assert told[1][0] == "one: half"


def test_a_phase_that_nobody_foresaw_does_not_fill_the_bar() -> None:
    told: list[float] = []
    plan = Plan(lambda message, share: told.append(share), 10.0)
    plan.phase("planned", 8.0)("end", 1.0)
    plan.phase("more", 5.0)("end", 1.0)
    plan.phase("still more", 5.0)("end", 1.0)
    plan.phase("the last", 2.0)("end", 1.0)
    plan.phase("nothing", 0.0)
    plan.done()
    assert told == [0.0, 0.8, 0.8, 0.9, 0.9, 0.95, 0.95, 1.0, 1.0, 1.0]
