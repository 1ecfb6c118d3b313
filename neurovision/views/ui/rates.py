"""How often one address may do something, the login's lockout included; counted by the library ``limits``."""

from __future__ import annotations

import ipaddress
import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter


def key_of(address: str) -> str:
    """What an address is counted as: of IPv6 the /64 network, which one visitor has all of."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Rates:
    """The allowances of every address, in this process's memory.

    Args:
        uploads: Upload requests a minute; 0 for any number, as below.
        calls: Analyses and other actions a minute.
        wrong: Attempts to sign in within ``lockout`` seconds.
        lockout: Seconds.
    """

    def __init__(self, uploads: int, calls: int, wrong: int, lockout: int) -> None:
        storage = MemoryStorage()
        self._sliding = SlidingWindowCounterRateLimiter(storage)
        self._fixed = FixedWindowRateLimiter(storage)
        self._uploads = RateLimitItemPerMinute(uploads, namespace="upload") if uploads else None
        self._calls = RateLimitItemPerMinute(calls, namespace="call") if calls else None
        self._attempts = RateLimitItemPerSecond(wrong, max(lockout, 1), namespace="login") if wrong else None

    def upload(self, address: str) -> float:
        """Take one upload; returns 0, or the seconds to wait where none is left."""
        return _take(self._sliding, self._uploads, address)

    def call(self, address: str) -> float:
        """Take one action; returns as :meth:`upload`."""
        return _take(self._sliding, self._calls, address)

    def attempt(self, address: str) -> float:
        """Take one attempt to sign in, before the password is looked at: many at once count as many.

        Returns:
            As :meth:`upload`; while it is not 0 even the right password is not heard.
        """
        return _take(self._fixed, self._attempts, address)

    def signed_in(self, address: str) -> None:
        """Forget an address's attempts: the last one was right."""
        if self._attempts:
            self._fixed.clear(self._attempts, key_of(address))


def _take(limiter: RateLimiter, item: RateLimitItem | None, address: str) -> float:
    if item is None or limiter.hit(item, key_of(address)):
        return 0.0
    return max(1.0, limiter.get_window_stats(item, key_of(address)).reset_time - time.time())
