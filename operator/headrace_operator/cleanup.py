"""`headrace-operator cleanup`: run by `helm uninstall` before it removes the operator.

The objects that the operator created for resources (Deployments, Jobs, Services, policies, logins) would otherwise stay
and keep running; they are deleted. The users' resources and the claims with models are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence

from headrace.reconcile.ownership import resource_controlling
from headrace_operator.client import NOT_FOUND, ApiError, ApiServer
from headrace_operator.connection import Connection
from headrace_operator.index import without_claim
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


def deleted_kinds(namespaces: Sequence[str], *, models: bool) -> list[Watched]:
    """Return the kinds whose objects are deleted, of which an operator restricted to namespaces made no others."""
    children = [each for each in watched_children() if each.namespaced or not namespaces]
    return [Watched("v1", "Secret", SECRET.plural), *children, *([CLAIM] if models else [])]


async def _clean_up(given: argparse.Namespace) -> None:
    """Acquire the Lease, so that no operator recreates the objects, and delete them."""
    async with ApiServer(Connection.find("cleanup")) as api:
        lease = Lease(api, given.operator_namespace, given.lease_name, "cleanup")
        await _stop_operator(api, given.operator_namespace, given.operator_deployment)
        await lease.acquire()
        api.guard = lease.check
        keeping = asyncio.create_task(lease.keep())
        for watched in deleted_kinds(given.watch_namespace, models=given.delete_models):
            for namespace in given.watch_namespace or [None]:
                await delete_all(api, watched, namespace)
        keeping.cancel()
        await lease.release()


async def delete_all(api: ApiServer, watched: Watched, namespace: str | None) -> None:
    """Delete the objects of a kind that the operator made, in a namespace or (None) in all."""
    deleted = 0
    for each in (await api.listing(watched, namespace)).objects:
        path = watched.path(each.namespace, each.name)
        if watched.namespaced or await _is_ours(api, path):
            await api.delete(path, uid=each.uid)
            deleted += 1
    log.info("deleted %d %s", deleted, watched.plural)


async def _is_ours(api: ApiServer, path: str) -> bool:
    """Whether the operator made a cluster-scoped object: any client may have written its label on one."""
    try:
        return resource_controlling(without_claim(await api.get(path))) is not None
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return False


async def _stop_operator(api: ApiServer, namespace: str, name: str) -> None:
    """Scale the operator to zero, so that it releases the Lease."""
    api.guard = _allowed
    try:
        await api.merge(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", {"spec": {"replicas": 0}})
    except ApiError as error:
        log.warning("the operator was not scaled down (%s); waiting for its Lease to expire", error)


def _allowed() -> None:
    """Allow a write without the Lease."""
