"""The bill of a run: every second is charged once, to the stage that was running."""

from trimtab.tasks.progress import report
from trimtab.tasks.reporting import bill
from trimtab.tasks.reporting.bill import BETWEEN, billed


def test_every_second_is_charged_to_the_stage_that_ran(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bill.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bill.time, "process_time", lambda: 2 * now[0])
    with billed(True) as charged:
        for seconds, event in ((1, ("capturing", 0, 2)), (4, ("capturing", 1, 2)), (4, ("capturing", 2, 2))):
            now[0] += seconds
            report(*event)
        for seconds, event in ((2, ("search", 0, 1)), (5, ("dose", 0, 1)), (3, ("dose", 1, 1))):
            now[0] += seconds
            report(*event)
        now[0] += 1
        spent = charged.closed()
    assert {stage: one.wall for stage, one in spent.items()} == {BETWEEN: 4, "capturing": 8, "search": 5, "dose": 3}
    assert sum(one.cpu for one in spent.values()) == 2 * sum(one.wall for one in spent.values()) == 40
    with billed(False) as nothing:
        assert nothing is None
