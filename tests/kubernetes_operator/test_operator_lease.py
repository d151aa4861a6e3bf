"""One replica leads, and it knows when it does no longer."""

from __future__ import annotations

import pytest
from kubernetes_operator.operator_leases import Ended, Leases

from headrace_operator.client import CONFLICT, ApiError
from headrace_operator.lease import DURATION_SECONDS, VALID_SECONDS


async def test_lease_when_there_is_none_then_first_takes_it_second_not() -> None:
    leases = Leases()
    assert await leases.replica("a")._try_to_acquire()
    assert not await leases.replica("b")._try_to_acquire()
    assert leases.holder == "a"


async def test_lease_when_its_holder_silent_then_taken_when_it_expires() -> None:
    """Not before."""
    leases = Leases()
    leader, candidate = leases.replica("a"), leases.replica("b")
    await leader._try_to_acquire()
    assert not await candidate._try_to_acquire()
    leases.now += DURATION_SECONDS - 0.1
    assert not await candidate._try_to_acquire()
    leases.now += 0.2
    assert await candidate._try_to_acquire()
    assert leases.holder == "b"


async def test_lease_when_its_holder_renews_then_nobody_takes_it() -> None:
    leases = Leases()
    leader, candidate = leases.replica("a"), leases.replica("b")
    await leader._try_to_acquire()
    for _ in range(20):
        assert not await candidate._try_to_acquire()
        leases.now += 2
        assert await leader._renew()
        leader.check()


async def test_leader_when_stopped_and_continued_then_ends_unwritten() -> None:
    leases = Leases()
    leader, candidate = leases.replica("a"), leases.replica("b")
    await leader._try_to_acquire()
    assert not await candidate._try_to_acquire()
    leases.now += 30
    assert await candidate._try_to_acquire()
    with pytest.raises(Ended):
        leader.check()
    with pytest.raises(Ended, match="acquired"):
        await leader._renew()


async def test_leader_when_api_server_down_then_writes_for_six_seconds() -> None:
    """Then it ends."""
    leases = Leases()
    leader = leases.replica("a")
    await leader._try_to_acquire()
    leases.away = True
    leases.now += VALID_SECONDS - 0.1
    assert not await leader._renew()
    leader.check()
    leases.now += 0.2
    with pytest.raises(Ended):
        leader.check()


async def test_leader_when_a_renewals_answer_is_lost_then_it_leads_on() -> None:
    leases = Leases()
    leader = leases.replica("a")
    await leader._try_to_acquire()
    leases.lose_answers = True
    assert not await leader._renew()
    leases.lose_answers = False
    assert not await leader._renew()  # conflicts with itself
    assert await leader._renew()
    leader.check()


async def test_lease_when_given_back_then_another_takes_it_at_once() -> None:
    leases = Leases()
    leader, candidate = leases.replica("a"), leases.replica("b")
    await leader._try_to_acquire()
    await leader.release()
    with pytest.raises(Ended):
        leader.check()
    assert await candidate._try_to_acquire()


async def test_lease_when_two_take_a_free_one_at_once_then_one_loses() -> None:
    leases = Leases()
    first, second = leases.replica("a"), leases.replica("b")
    await first._try_to_acquire()
    await first.release()
    first._lease = await leases.get("")  # it sees a free one
    assert await second._try_to_acquire()  # and is overtaken
    with pytest.raises(ApiError) as raised:
        await first._put(holder="a")
    assert raised.value.status == CONFLICT
    assert leases.holder == "b"


async def test_replica_when_its_container_restarts_then_another_holder() -> None:
    leases = Leases()
    await leases.replica("a")._try_to_acquire()
    assert not await leases.replica("a")._try_to_acquire()
