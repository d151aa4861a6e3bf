"""Checks of `helm test`: the gateway is ready, and rejects requests without a key.

Runs in the gateway's image, so it uses only the standard library. Arguments: base URL, and `--anonymous` if a namespace
is served without a key, because the list of models is then public until the first key is created.
"""

from __future__ import annotations

import sys
import time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

DEADLINE_SECONDS = 60.0
"""A new gateway waits for routes and keys, and the broker for its volume."""
PAUSE_SECONDS = 1.0


def status_of(url: str, key: str | None = None) -> int:
    """Return the status of GET; 0 without a response."""
    request = Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


def check(name: str, url: str, wanted: set[int], key: str | None = None) -> bool:
    """Send requests until the status is an expected one, or until the deadline; print the result."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (status := status_of(url, key)) not in wanted and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    good = status in wanted
    print(f"{'ok  ' if good else 'FAIL'} {name}: {status or 'no response'} (expected {sorted(wanted)})")
    return good


def main(base: str, *, anonymous: bool) -> int:
    """Return 0 if all checks pass."""
    closed = {200, 401} if anonymous else {401}
    good = check("ready", f"{base}/readyz", {200})
    good &= check("models without a key", f"{base}/v1/models", closed)
    good &= check("models with a wrong key", f"{base}/v1/models", closed, key="hr_default_wrong")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], anonymous="--anonymous" in sys.argv[2:]))
