"""Writers of the key-value buckets that the reconcile loop owns.

A `BucketWriter` holds the desired content and writes differences in the background, so a reconcile pass never waits for
the broker. After a reconnection, or if the bucket is missing, the whole content is compared and written again: the
bucket is a copy that the loop can always recreate.
"""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.client import JetStreamContext
from nats.js.errors import BucketNotFoundError, NoKeysError, NotFoundError
from nats.js.kv import KeyValue

from headrace.events import subjects
from headrace.events.connection import raise_if_cancelled

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
"""Short, because queued requests wait for a route; the broker is close to the control plane."""
AUDIT_SECONDS = 10.0
"""Longest time until a deleted bucket is detected and written again."""

BUCKETS = {
    subjects.ROUTES_BUCKET: KeyValueConfig(bucket=subjects.ROUTES_BUCKET, history=1, storage=StorageType.FILE),
    subjects.KEYS_BUCKET: KeyValueConfig(bucket=subjects.KEYS_BUCKET, history=1, storage=StorageType.FILE),
    subjects.GATEWAYS_BUCKET: KeyValueConfig(
        bucket=subjects.GATEWAYS_BUCKET, history=1, storage=StorageType.MEMORY, ttl=subjects.GATEWAY_TTL_SECONDS
    ),
}


async def open_bucket(jetstream: JetStreamContext, bucket: str) -> KeyValue:
    """Return the bucket; create it if it is missing."""
    try:
        return await jetstream.key_value(bucket)
    except (BucketNotFoundError, NotFoundError):
        log.info("creating the bucket %s", bucket)
        return await jetstream.create_key_value(BUCKETS[bucket])


class BucketWriter:
    """Keeps one bucket equal to the desired entries. Other keys are removed at each full comparison."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._desired: dict[str, bytes] = {}
        self._dirty: set[str] = set()
        self._compare = True
        self._complete = False
        """Whether `_desired` has all desired entries; before that, unknown keys are not removed."""
        self._work = asyncio.Event()
        self._work.set()
        self._clean = asyncio.Event()

    def set_desired(self, key: str, value: bytes | None) -> None:
        """Set the desired value of an entry; None removes it."""
        if self._desired.get(key) == value and (value is not None or self._complete):
            return  # also for an unknown key: the comparison removes keys that are not desired
        if value is None:
            self._desired.pop(key, None)
        else:
            self._desired[key] = value
        self._dirty.add(key)
        self._begin()

    def set_all_desired(self, entries: dict[str, bytes]) -> None:
        """Set the desired entries of the bucket and remove all others."""
        for key in self._desired.keys() - entries.keys():
            self.set_desired(key, None)
        for key, value in entries.items():
            self.set_desired(key, value)
        self.complete()

    def complete(self) -> None:
        """Remove keys that are not desired from now on, including those that an earlier process wrote."""
        if not self._complete:
            self._complete = True
            self.compare()

    def compare(self) -> None:
        """Schedule a comparison of the whole bucket, for example after a reconnection."""
        self._compare = True
        self._begin()

    async def written(self) -> None:
        """Wait until the bucket has the desired content."""
        await self._clean.wait()

    async def run(self) -> None:
        """Write differences until cancelled."""
        jetstream = self._client.jetstream(timeout=2)
        bucket: KeyValue | None = None
        while True:
            raise_if_cancelled()
            audit = False
            try:
                async with asyncio.timeout(AUDIT_SECONDS):
                    await self._work.wait()
            except TimeoutError:
                audit = True
            self._work.clear()
            try:
                if audit and bucket is not None:
                    await bucket.status()  # raises if the bucket is missing
                if bucket is None or self._compare:
                    bucket = await open_bucket(jetstream, self._bucket)
                    await self._compare_all(bucket)
                await self._write_dirty(bucket)
                if not self._work.is_set():
                    self._clean.set()
            except (nats.errors.Error, TimeoutError, OSError) as error:
                raise_if_cancelled()
                log.debug("bucket %s: %s; retrying", self._bucket, error or type(error).__name__)
                bucket = None
                self._compare = True
                self._work.set()
                await asyncio.sleep(RETRY_SECONDS)

    def _begin(self) -> None:
        self._clean.clear()
        self._work.set()

    async def _compare_all(self, bucket: KeyValue) -> None:
        self._compare = False
        try:
            present = set(await bucket.keys())
        except NoKeysError:
            present = set()
        for key in present | self._desired.keys():
            if key in present and key not in self._desired:
                if self._complete:
                    self._dirty.add(key)
            elif key not in present or (await bucket.get(key)).value != self._desired.get(key):
                self._dirty.add(key)

    async def _write_dirty(self, bucket: KeyValue) -> None:
        while self._dirty:
            key = self._dirty.pop()
            value = self._desired.get(key)
            try:
                if value is None:
                    await bucket.delete(key)
                else:
                    await bucket.put(key, value)
            except BaseException:
                self._dirty.add(key)
                raise
