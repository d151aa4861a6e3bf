"""A client process that stops at a point of its work, to be killed there: `store_client.py SOCKET POINT [KEY]`."""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.store.client import Store
from headrace.store.keys import ObjectClass, content_key

SIZE = 1 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)


def main(path: Path, point: str, key: str) -> None:
    store = Store(path)
    if point == "connected":
        pause()
    if point in {"read", "leased"}:
        found = store.get(key)
        total = sum(found.memory[::4096]) if point == "read" else 0
        pause(total)
    draft = store.create(ObjectClass.UPDATES, SIZE, digest=content_key(CONTENT))
    if point == "created":
        pause()
    draft.memory[: SIZE // 2] = CONTENT[: SIZE // 2]
    if point == "half written":
        pause()
    draft.memory[:] = CONTENT
    if point == "written":
        pause()
    sealed = draft.seal()
    pause(sealed.key)


def pause(said: object = "") -> None:
    """Report that the point is reached, and wait for the kill."""
    sys.stdout.write(f"at {said}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
