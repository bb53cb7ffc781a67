"""Whose turn it is: every ticket comes once, nobody is passed without bound, the longest queue gives way."""

import copy
from collections import Counter
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from service.turns import CREDIT, CROWD, HEAD_START, LEAST, FairQueue, Ticket

PRIORITY = 2
names = st.sampled_from(["a", "b", "c"])
tickets = st.builds(Ticket, names, names, st.integers(0, PRIORITY))
# What happens to a queue: a ticket comes, the next goes, one leaves, or the last of the longest is dropped.
events = st.lists(tickets | st.sampled_from(["take", "remove", "drop"]), max_size=200)


def flood(queue: FairQueue, *flows: tuple[str, str], tickets: int = 100) -> None:
    for _ in range(tickets):
        for tenant, adapter in flows:
            queue.push(Ticket(tenant, adapter))


def taken(queue: FairQueue, count: int) -> list[Ticket]:
    return [queue.take() for _ in range(count)]


@given(events)
def test_every_ticket_leaves_exactly_once(events: list[Ticket | str]) -> None:
    queue, waiting = FairQueue(), list[Ticket]()
    for event in events:
        if isinstance(event, Ticket):
            queue.push(event)
            waiting.append(event)
        elif waiting:
            left = waiting[len(waiting) // 2]
            if event == "remove":
                queue.remove(left)
                queue.remove(left)
            else:
                left = queue.take() if event == "take" else queue.drop(waiting[-1])
            waiting.remove(left)
        assert len(queue) == len(waiting)
    assert set(taken(queue, len(waiting))) == set(waiting)
    assert len(queue) == 0


@given(events)
def test_a_newcomer_knows_before_it_comes_whether_it_would_be_dropped(events: list[Ticket | str]) -> None:
    queue = FairQueue()
    for event in events:
        if isinstance(event, Ticket):
            spared = queue.spares(event)
            queue.push(event)
            trial = copy.deepcopy(queue, {id(event): event})
            assert (trial.drop(event) is not event) == spared
        elif len(queue):
            queue.take()


@given(events, st.integers(2, 6))
def test_a_waiting_ticket_is_passed_a_bounded_number_of_times(events: list[Ticket | str], adapters: int) -> None:
    """Whatever went before, and however many, of whatever priority, come after."""
    queue = FairQueue()
    for event in events:
        if isinstance(event, Ticket):
            queue.push(event)
            queue.take()
    cold = Ticket("cold", "cold")
    queue.push(cold)
    others = [(tenant, f"hot-{n}") for tenant in ("cold", "hot") for n in range(adapters)]
    passed = 0
    while True:
        for tenant, adapter in others:
            queue.push(Ticket(tenant, adapter, PRIORITY))
        if queue.take() is cold:
            break
        passed += 1
    each = CREDIT + 2 + 2 * HEAD_START * PRIORITY
    assert passed <= each * (each * adapters + 1)


def test_adapters_of_one_tenant_share_alike_however_much_one_of_them_asks() -> None:
    queue = FairQueue()
    flood(queue, ("t", "hot"), tickets=1000)
    flood(queue, ("t", "one"), ("t", "two"), tickets=300)
    taken(queue, 2 * CREDIT)  # what the two had saved
    counts = Counter(ticket.adapter for ticket in taken(queue, 150))
    assert counts.keys() == {"hot", "one", "two"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_tenant_gains_nothing_by_spreading_over_adapters() -> None:
    queue = FairQueue()
    flood(queue, ("wide", "a"), ("wide", "b"), ("wide", "c"))
    flood(queue, ("narrow", "a"), tickets=300)
    assert Counter(ticket.tenant for ticket in taken(queue, 100)) == {"wide": 50, "narrow": 50}


def after_a_flood(cold: int) -> tuple[FairQueue, list[Ticket]]:
    """A queue in which one adapter has had hundreds of turns and wants more, and the few tickets of another."""
    queue, few = FairQueue(), [Ticket("t", "cold") for _ in range(cold)]
    flood(queue, ("t", "hot"), tickets=600)
    taken(queue, 200)
    for ticket in few:
        queue.push(ticket)
    return queue, few


def test_who_asked_for_less_than_its_share_goes_first_but_not_for_ever() -> None:
    queue, _ = after_a_flood(cold=1)
    order = []
    for _ in range(CREDIT + 60):
        order.append(queue.take().adapter)
        if order[-1] == "cold":
            queue.push(Ticket("t", "cold"))
    runs = [(adapter, len(list(run))) for adapter, run in groupby(order)]
    assert runs[0][0] == "cold"
    assert CREDIT - 1 <= runs[0][1] <= CREDIT + 1
    assert all(length == 1 for _, length in runs[1:])


def test_a_burst_is_served_at_once_and_a_flood_takes_turns() -> None:
    queue, few = after_a_flood(cold=4 * CROWD)
    assert taken(queue, 4 * CROWD) == few
    queue, _ = after_a_flood(cold=401)  # no fewer than the other's
    assert Counter(ticket.adapter for ticket in taken(queue, 2 * CROWD)) == {"cold": CROWD, "hot": CROWD}


def test_a_small_burst_is_never_a_flood() -> None:
    queue = FairQueue()
    flood(queue, ("t", "served"))
    taken(queue, 100)
    one, other = Ticket("t", "one"), [Ticket("t", "other") for _ in range(CROWD)]
    for ticket in [one, *other]:
        queue.push(ticket)
    queue.push(Ticket("t", "served"))
    assert taken(queue, CROWD + 1) == [one, *other]


@given(st.lists(st.floats(0, 20), min_size=3, max_size=3))
def test_shares_are_of_what_turns_cost(costs: list[float]) -> None:
    """Three floods of one tenant whose turns cost each its own: each has a third of the work, to within two turns."""
    queue, work = FairQueue(), dict.fromkeys("abc", 0.0)
    price = dict(zip("abc", costs, strict=True))
    flood(queue, *(("t", name) for name in price), tickets=20)
    for _ in range(600):
        ticket = queue.take()
        queue.push(Ticket("t", ticket.adapter))
        cost = max(price[ticket.adapter], LEAST)
        queue.settle(ticket, price[ticket.adapter])
        work[ticket.adapter] += cost
    assert max(work.values()) - min(work.values()) <= 2 * max(1, *costs) + 2


@given(events, st.lists(st.floats(0, 50), min_size=1), st.integers(2, 6))
def test_whatever_turns_cost_a_waiting_ticket_is_passed_a_bounded_number_of_times(
    events: list[Ticket | str], costs: list[float], adapters: int
) -> None:
    queue = FairQueue()
    for number, event in enumerate(events):
        if isinstance(event, Ticket):
            queue.push(event)
            queue.settle(queue.take(), costs[number % len(costs)])
    owed = sum(costs) + len(events) * max(costs)  # what the cold one may have had beyond its share
    queue.push(cold := Ticket("a", "a"))
    others = [(tenant, f"hot-{n}") for tenant in ("a", "hot") for n in range(adapters)]
    bound = 4 * (CREDIT + HEAD_START * PRIORITY + owed) / LEAST * (len(others) + 1)
    passed = 0
    while True:
        for tenant, adapter in others:
            queue.push(Ticket(tenant, adapter, PRIORITY))
        if (ticket := queue.take()) is cold:
            break
        queue.settle(ticket, 0.0)
        passed += 1
        assert passed <= bound


def test_who_is_given_back_what_it_paid_too_much_saves_no_more_than_anybody() -> None:
    queue, _ = after_a_flood(cold=0)
    for _ in range(3 * CREDIT):
        queue.push(Ticket("t", "cold"))
        queue.settle(queue.take(), 0.0)
    order = []
    for _ in range(CREDIT + 9):
        queue.push(Ticket("t", "cold"))
        order.append(queue.take().adapter)
    assert "hot" in order


def test_those_within_their_share_go_in_order_of_arrival() -> None:
    queue, _ = after_a_flood(cold=0)
    few = [Ticket("t", name) for name in ("one", "two", "one", "three", "two", "one")]
    for ticket in few:
        queue.push(ticket)
    assert taken(queue, len(few)) == few


def test_turns_that_nobody_else_waited_for_cost_nothing() -> None:
    """An adapter that had the quiet hours to itself is within its share when a flood comes, however busy it was."""
    queue = FairQueue()
    for _ in range(1000):
        queue.push(Ticket("t", "busy"))
        queue.take()
    queue.push(Ticket("t", "rare"))
    queue.take()
    flood(queue, ("t", "hot"))
    for _ in range(CREDIT - 1):
        busy = Ticket("t", "busy")
        queue.push(busy)
        assert queue.take() is busy


def test_one_adapters_tickets_go_in_order_of_arrival() -> None:
    queue = FairQueue()
    came = [Ticket() for _ in range(9)]
    for ticket in came:
        queue.push(ticket)
    assert taken(queue, 9) == came


def test_priority_is_a_head_start_that_is_paid_back() -> None:
    queue = FairQueue()
    flood(queue, ("calm", "a"))
    for _ in range(100):
        queue.push(Ticket("urgent", "a", 1))
    tenants = [ticket.tenant for ticket in taken(queue, 100)]
    assert tenants[1:HEAD_START] == ["urgent"] * (HEAD_START - 1)
    assert 0 < tenants.count("urgent") - tenants.count("calm") <= HEAD_START + 1


def test_among_tickets_of_one_adapter_priority_is_worth_some_places() -> None:
    queue = FairQueue()
    flood(queue, ("t", "a"), tickets=10)
    urgent = Ticket("t", "a", 1)
    queue.push(urgent)
    assert taken(queue, 11).index(urgent) == 10 - HEAD_START + 1


def test_the_last_of_the_longest_queue_gives_way_to_a_newcomer() -> None:
    queue = FairQueue()
    flood(queue, ("t", "hot"), tickets=10)
    last, cold = Ticket("t", "hot"), Ticket("t", "cold")
    queue.push(last)
    queue.push(cold)
    assert queue.drop(cold) is last
    again = Ticket("t", "hot")
    queue.push(again)
    assert queue.drop(again) is again
