"""`headrace-operator cleanup`: run by `helm uninstall` before it removes the operator.

The objects that the operator created for resources (Deployments, Jobs, Services, policies, logins) would otherwise stay
and keep running; they are deleted. The users' resources and the claims with models are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence

from headrace_operator.client import ApiError, ApiServer
from headrace_operator.connection import Connection
from headrace_operator.kinds import CLAIM, SECRET, Watched, watched_children
from headrace_operator.lease import Lease

log = logging.getLogger(__name__)


def clean_up(arguments: Sequence[str]) -> int:
    """Delete the objects that the operator created; return the exit code."""
    parser = argparse.ArgumentParser(prog="headrace-operator cleanup", description=__doc__)
    parser.add_argument("--operator-namespace", required=True, help="where the operator runs")
    parser.add_argument("--operator-deployment", required=True, help="its Deployment, which is scaled to zero first")
    parser.add_argument("--lease-name", default="headrace-operator", help="the operator's Lease, which is taken")
    parser.add_argument(
        "--watch-namespace", action="append", default=[], help="only in this namespace; may be repeated"
    )
    parser.add_argument("--delete-models", action="store_true", help="delete the claims with the models too")
    given = parser.parse_args(arguments)
    asyncio.run(_clean_up(given))
    return 0


async def _clean_up(given: argparse.Namespace) -> None:
    """Acquire the Lease, so that no operator recreates the objects, and delete them."""
    async with ApiServer(Connection.find("cleanup")) as api:
        lease = Lease(api, given.operator_namespace, given.lease_name, "cleanup")
        await _stop_operator(api, given.operator_namespace, given.operator_deployment)
        await lease.acquire()
        api.guard = lease.check
        keeping = asyncio.create_task(lease.keep())
        ours = [Watched("v1", "Secret", SECRET.plural), *watched_children()]
        if given.delete_models:
            ours.append(Watched(CLAIM.api_version, CLAIM.kind, CLAIM.plural))
        for watched in ours:
            for namespace in given.watch_namespace or [None]:
                await _delete_all(api, watched, namespace)
        keeping.cancel()
        await lease.release()


async def _delete_all(api: ApiServer, watched: Watched, namespace: str | None) -> None:
    found = (await api.listing(watched, namespace)).objects
    for each in found:
        await api.delete(watched.path(each.namespace, each.name), uid=each.uid)
    log.info("deleted %d %s", len(found), watched.plural)


async def _stop_operator(api: ApiServer, namespace: str, name: str) -> None:
    """Scale the operator to zero, so that it releases the Lease."""
    api.guard = _allowed
    try:
        await api.merge(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", {"spec": {"replicas": 0}})
    except ApiError as error:
        log.warning("the operator was not scaled down (%s); waiting for its Lease to expire", error)


def _allowed() -> None:
    """Allow a write without the Lease."""
