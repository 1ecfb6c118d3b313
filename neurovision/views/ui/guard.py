"""What stands between the page and the network: headers, limits, the login's lockout, request ids and the access log.

Every setting comes from the environment; :class:`Limits` lists them. An address is kept in memory only, as the key of
its visitor's allowance, and never logged.
"""

from __future__ import annotations

import hmac
import itertools
import json
import logging
import os
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from neurovision.logs import event, request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# The browser itself refuses whatever would leave this server.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:;"
    " style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
SPARE_DISK = 64_000_000  # bytes that an upload must leave free
MAX_CLIENTS = 10_000  # addresses whose allowance is remembered
# Gradio's routes that this page has no use for: fetching on a visitor's behalf, resizing to any size, other apps.
CLOSED = re.compile(
    r"/(gradio_api/)?(proxy=|pwa_icon|manifest\.json|monitoring|dev/|vibe|stream/|custom_component|deep_link|mcp|docs|redoc"
    r"|openapi\.json)"
)
_UPLOAD = re.compile(r"/(gradio_api/)?upload/?$")
_CALL = re.compile(r"/(gradio_api/)?(queue/join|call/|run/|api/)")
_LOGIN = re.compile(r"/login/?$")


@dataclass(frozen=True)
class Limits:
    """What one address may do; 0 switches a limit off.

    Attributes:
        uploads: Upload requests a minute (NEUROVISION_UPLOADS_PER_MINUTE).
        calls: Analyses and other actions a minute (NEUROVISION_CALLS_PER_MINUTE).
        upload_bytes: Of one upload request, all its files together (NEUROVISION_UPLOAD_MB).
        call_bytes: Of any other request.
        wrong: Wrong passwords before the lockout (NEUROVISION_LOGIN_ATTEMPTS).
        lockout: Seconds that it lasts (NEUROVISION_LOGIN_LOCKOUT).
        frame_ancestors: Sites that may show the page in a frame, as in a Content-Security-Policy
            (NEUROVISION_FRAME_ANCESTORS); none, but for a Space, which huggingface.co shows in a frame.
    """

    uploads: int = 120
    calls: int = 600
    upload_bytes: int = 2 * 1024**3
    call_bytes: int = 8 * 1024**2
    wrong: int = 5
    lockout: int = 900
    frame_ancestors: str = "'none'"

    @classmethod
    def from_environment(cls) -> Limits:
        """Read the settings; one that is no number keeps its default, and a warning is logged."""
        told = os.environ.get("NEUROVISION_FRAME_ANCESTORS", "").replace(";", " ").replace(",", " ")
        framed = "https://huggingface.co" if os.environ.get("SPACE_ID") else cls.frame_ancestors
        return cls(
            _number("NEUROVISION_UPLOADS_PER_MINUTE", cls.uploads),
            _number("NEUROVISION_CALLS_PER_MINUTE", cls.calls),
            _number("NEUROVISION_UPLOAD_MB", cls.upload_bytes >> 20) << 20,
            cls.call_bytes,
            _number("NEUROVISION_LOGIN_ATTEMPTS", cls.wrong),
            _number("NEUROVISION_LOGIN_LOCKOUT", cls.lockout),
            " ".join(told.split()) or framed,
        )


def _number(variable: str, default: int) -> int:
    told = os.environ.get(variable)
    if told is None:
        return default
    if not told.isdigit():
        log.warning("%s is no whole number; %d is used", variable, default)
        return default
    return int(told)


class Bucket:
    """A token bucket for each address: a minute's allowance at once, then a steady trickle (steady clock)."""

    def __init__(self, a_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self.a_minute, self._clock = a_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Take one; returns 0, or the seconds to wait where none is left."""
        if not self.a_minute:
            return 0.0
        now = self._clock()
        left, at = self._left.pop(address, (float(self.a_minute), now))
        left = min(float(self.a_minute), left + (now - at) * self.a_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.a_minute
        self._left[address] = (left - 1 if wait == 0 else left, now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return wait


class Lockout:
    """Counts wrong passwords by address and closes the login to it after too many (steady clock)."""

    def __init__(self, wrong: int, seconds: int, clock: Callable[[], float] = monotonic) -> None:
        self.wrong, self.seconds, self._clock = wrong, seconds, clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until the address may try again; 0 if it may now."""
        count, at = self._failed.get(address, (0, 0.0))
        left = at + self.seconds - self._clock()
        if left <= 0:
            self._failed.pop(address, None)
        return left if self.wrong and count >= self.wrong and left > 0 else 0.0

    def tried(self, address: str, right: bool) -> None:
        """Record an attempt."""
        count, _ = self._failed.pop(address, (0, 0.0))
        if not right:
            self._failed[address] = (count + 1, self._clock())
            if len(self._failed) > MAX_CLIENTS:
                self._failed.popitem(last=False)


def login() -> Callable[[str, str], bool] | None:
    """The check of user and password that the environment asks for, or None where it asks for none.

    Read are NEUROVISION_USER, and NEUROVISION_PASSWORD or the file that NEUROVISION_PASSWORD_FILE names. Both are
    compared in constant time, the password also where the user is wrong.

    Raises:
        SystemExit: A user without a password, or the other way round; an open page would be a surprise.
    """
    user = os.environ.get("NEUROVISION_USER", "")
    password = os.environ.get("NEUROVISION_PASSWORD", "")
    if named := os.environ.get("NEUROVISION_PASSWORD_FILE"):
        try:
            password = Path(named).read_text().strip()
        except OSError:
            raise SystemExit("The file that NEUROVISION_PASSWORD_FILE names cannot be read.") from None
    if not user and not password:
        return None
    if not user or not password:
        raise SystemExit("A login needs both NEUROVISION_USER and NEUROVISION_PASSWORD (or NEUROVISION_PASSWORD_FILE).")

    def check(given_user: str, given_password: str) -> bool:
        same_user = hmac.compare_digest(given_user.encode(), user.encode())
        same_password = hmac.compare_digest(given_password.encode(), password.encode())
        return same_user and same_password

    return check


class _TooLarge(Exception):
    """More bytes came than the request may have."""


class Guard:
    """ASGI middleware around the whole page.

    Args:
        app: The page.
        folder: Where uploads land, for the disk's free space.
        limits: See :class:`Limits`.
        observe: Called with ``(route, status, seconds)`` after every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        limits: Limits,
        observe: Callable[[str, int, float], None] = lambda route, status, seconds: None,
    ) -> None:
        self.app, self.folder, self.limits, self.observe = app, folder, limits, observe
        self.uploads, self.calls = Bucket(limits.uploads), Bucket(limits.calls)
        self.lockout = Lockout(limits.wrong, limits.lockout)
        self.headers = [
            (b"content-security-policy", f"{POLICY}; frame-ancestors {limits.frame_ancestors}".encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
        ]
        if limits.frame_ancestors == "'none'":
            self.headers.append((b"x-frame-options", b"DENY"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, number = perf_counter(), 0, secrets.token_hex(8)
        token = request_id.set(number)
        path, address = str(scope["path"]), (scope.get("client") or ("", 0))[0]
        posts = scope["method"] == "POST"
        signs_in = posts and bool(_LOGIN.search(path))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(k, v) for k, v in message["headers"] if k.lower() != b"x-request-id"]
                message["headers"] = [*kept, *self.headers, (b"x-request-id", number.encode())]
            await send(message)

        most = self.limits.upload_bytes if posts and _UPLOAD.search(path) else self.limits.call_bytes
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if most and came > most:
                raise _TooLarge
            return message

        try:
            refused = self._refusal(path, address, posts, signs_in, most, _length(scope["headers"]))
            if refused is None:
                await self.app(scope, counted, answer)
            else:
                await _say(answer, *refused)
        except _TooLarge:
            if status == 0:
                await _say(answer, 413, f"A request may have {most >> 20} MB; this has more, send less at once.")
        finally:
            if signs_in and status in (200, 400):
                self.lockout.tried(address, status == 200)
            seconds, route = perf_counter() - start, "unknown" if status == 404 else route_of(path)
            self.observe(route, status, seconds)
            values = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1e3, 1)}
            event(log, "a request was answered", **values)
            request_id.reset(token)

    def _refusal(
        self, path: str, address: str, posts: bool, signs_in: bool, most: int, length: int | None
    ) -> tuple[int, str, float] | None:
        """Status, sentence and seconds to wait, or None where the request may pass."""
        if CLOSED.match(path):
            return 404, "There is nothing at this address.", 0
        if signs_in and (wait := self.lockout.wait(address)):
            return 429, f"Too many wrong passwords; try again in {_words(wait)}.", wait
        if not posts:
            return None
        if length is not None and most and length > most:
            return 413, f"A request may have {most >> 20} MB; received {length >> 20} MB, send less at once.", 0
        if _UPLOAD.search(path):
            if wait := self.uploads.take(address):
                return 429, f"{self.limits.uploads} uploads a minute are taken; try again in {_words(wait)}.", wait
            if shutil.disk_usage(self.folder).free < (length or 0) + SPARE_DISK:
                return 507, "The server has no room for this upload now; try again in some minutes.", 60
        elif _CALL.search(path) and (wait := self.calls.take(address)):
            return 429, f"{self.limits.calls} actions a minute are taken; try again in {_words(wait)}.", wait
        return None


def route_of(path: str) -> str:
    """The part of a path that names no file, session or event: ``/gradio_api/call``, ``/gradio_api/file``."""
    parts = path.split("=")[0].strip("/").split("/")[:2]
    return "/" + "/".join(itertools.takewhile(re.compile(r"[a-z_]{1,24}").fullmatch, parts))


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    told = next((v for k, v in headers if k.lower() == b"content-length"), b"")
    return int(told) if told.isdigit() else None


def _words(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a moment"


async def _say(send: Send, status: int, sentence: str, wait: float = 0) -> None:
    headers = [(b"content-type", b"application/json")]
    if wait:
        headers.append((b"retry-after", str(int(wait) + 1).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})
