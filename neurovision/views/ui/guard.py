"""What stands between the page and the network: routes, hosts and sites, headers, limits, request ids and the access log.

Every setting comes from the environment; :class:`Limits` lists them. An address is kept in memory only, as the key of
its visitor's allowance, and never logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from neurovision.logs import event, request_id
from neurovision.views.ui.entry import ELSEWHERE, OPEN, Names, is_foreign, route_of
from neurovision.views.ui.rates import Rates, key_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# The browser itself refuses whatever would leave this server.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:;"
    " style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
SPARE_DISK = 64_000_000  # bytes that an upload must leave free
NO_ROOM = "The server has no room for this upload now; try again in some minutes."
IDLE_SECONDS = 30.0  # between two pieces of a request's body
BODY_SECONDS, BODY_RATE = 60.0, 50_000  # a body may take so long, and a second more for so many bytes


@dataclass(frozen=True)
class Limits:
    """What one address may do; 0 switches a limit off.

    Attributes:
        uploads: Upload requests a minute (NEUROVISION_UPLOADS_PER_MINUTE).
        calls: Analyses and other actions a minute (NEUROVISION_CALLS_PER_MINUTE).
        upload_bytes: Of one upload request, all its files together (NEUROVISION_UPLOAD_MB).
        call_bytes: Of any other request.
        wrong: Attempts to sign in before the lockout (NEUROVISION_LOGIN_ATTEMPTS); the right password starts anew.
        places: Actions of one address that may wait or run at a time (NEUROVISION_PLACES).
        connections: Requests, open streams included, and connections of one address at a time (NEUROVISION_CONNECTIONS).
        pages: Pages that one address may have open (NEUROVISION_PAGES).
        lockout: Seconds from the first of them until it ends (NEUROVISION_LOGIN_LOCKOUT).
        frame_ancestors: Sites that may show the page in a frame, as in a Content-Security-Policy
            (NEUROVISION_FRAME_ANCESTORS); none, but for a Space, which huggingface.co shows in a frame.
    """

    uploads: int = 120
    calls: int = 600
    upload_bytes: int = 2 * 1024**3
    call_bytes: int = 8 * 1024**2
    wrong: int = 5
    lockout: int = 900
    places: int = 16
    connections: int = 96
    pages: int = 24
    frame_ancestors: str = "'none'"

    @classmethod
    def from_environment(cls) -> Limits:
        """Read the settings; one that is no number keeps its default, and a warning is logged."""
        allowed = os.environ.get("NEUROVISION_FRAME_ANCESTORS", "").replace(";", " ").replace(",", " ")
        framed = "https://huggingface.co" if os.environ.get("SPACE_ID") else cls.frame_ancestors
        return cls(
            _number("NEUROVISION_UPLOADS_PER_MINUTE", cls.uploads),
            _number("NEUROVISION_CALLS_PER_MINUTE", cls.calls),
            _number("NEUROVISION_UPLOAD_MB", cls.upload_bytes >> 20) << 20,
            cls.call_bytes,
            _number("NEUROVISION_LOGIN_ATTEMPTS", cls.wrong),
            _number("NEUROVISION_LOGIN_LOCKOUT", cls.lockout),
            _number("NEUROVISION_PLACES", cls.places),
            _number("NEUROVISION_CONNECTIONS", cls.connections),
            _number("NEUROVISION_PAGES", cls.pages),
            " ".join(allowed.split()) or framed,
        )


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable)
    if value is None:
        return default
    if not value.isdigit():
        log.warning("%s is no whole number; %d is used", variable, default)
        return default
    return int(value)


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


class _Cut(HTTPException):
    """A request is given up while its body is read.

    FastAPI answers 400 for any other exception that reading a body raises.

    Args:
        status: Of the answer.
        sentence: What is wrong, and what to do.
        wait: Seconds after which to try again; 0 for none.
    """

    def __init__(self, status: int, sentence: str, wait: float = 0) -> None:
        super().__init__(status, sentence, {k.decode(): v.decode() for k, v in _closing(status, wait)})
        self.said = (status, sentence, wait)


class _Body:
    """A request's body as it is read: its size, its pace, and for an upload the room that is left.

    Args:
        receive: The server's.
        most: Bytes; 0 for any number.
        folder: Of an upload, else None.
    """

    def __init__(self, receive: Receive, most: int, folder: Path | None) -> None:
        self._receive, self._most, self._folder = receive, most, folder
        self._came, self._looked, self._start, self._reading = 0, 0, monotonic(), True

    async def __call__(self) -> Message:
        """The next piece.

        Raises:
            _Cut: The body is too large or too slow, or the disk is full.
        """
        if not self._reading:  # what comes now is that the visitor leaves, whenever that may be
            return await self._receive()
        late = _Cut(408, "The request came too slowly; send it again over a better connection.")
        try:
            message = await asyncio.wait_for(self._receive(), IDLE_SECONDS)
        except TimeoutError:
            raise late from None
        self._came += len(message.get("body", b""))
        self._reading = bool(message.get("more_body"))
        if self._most and self._came > self._most:
            raise _Cut(413, f"A request may have {self._most >> 20} MB; this has more, send less at once.")
        if self._reading and monotonic() - self._start > BODY_SECONDS + self._came / BODY_RATE:
            raise late
        if self._folder is not None and self._came - self._looked > SPARE_DISK // 16:
            self._looked = self._came
            if shutil.disk_usage(self._folder).free < SPARE_DISK:
                raise _Cut(507, NO_ROOM, 60)
        return message


_COUNTED = {"places": ("join", "call"), "pages": ("heartbeat",)}


class Guard:
    """ASGI application around the whole page.

    Args:
        app: The page.
        folder: Where uploads land, for the disk's free space.
        limits: See :class:`Limits`.
        observe: Called with ``(route, status, seconds)`` after every request; the route is a name of ``entry.ROUTES``.
        names: The hosts that the page answers to; the environment's by default.
        queued: Tells how many actions of an address wait or run.
        sessions: Told which sessions have a page open.
        signed_in: Tells whether a visitor's cookies, by name, are of one who signed in; None where there is no login.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        limits: Limits,
        observe: Callable[[str, int, float], None] = lambda route, status, seconds: None,
        names: Names | None = None,
        signed_in: Callable[[dict[str, str]], bool] | None = None,
        queued: Callable[[str], int] = lambda address: 0,
        sessions: Counter[str] | None = None,
    ) -> None:
        self.sessions: Counter[str] = Counter() if sessions is None else sessions
        self._open: Counter[tuple[str, str]] = Counter()  # requests that are being answered, by kind and address
        self.queued = queued
        self.app, self.folder, self.limits, self.observe = app, folder, limits, observe
        self.names, self.signed_in = names or Names.from_environment(), signed_in
        self.rates = Rates(limits.uploads, limits.calls, limits.wrong, limits.lockout)
        self.forwarded = bool(os.environ.get("FORWARDED_ALLOW_IPS") or os.environ.get("SPACE_ID"))
        self.headers = [
            (b"content-security-policy", f"{POLICY}; frame-ancestors {limits.frame_ancestors}".encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
        ]
        if limits.frame_ancestors == "'none'":
            self.headers.append((b"x-frame-options", b"DENY"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, number = perf_counter(), 0, secrets.token_hex(8)
        token = request_id.set(number)
        route = route_of(scope["method"], str(scope["path"]))
        address = (scope.get("client") or ("", 0))[0]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._answered(route, scope, message["headers"], number)
            await send(message)

        most = self.limits.upload_bytes if route == "upload" else self.limits.call_bytes
        body = _Body(receive, most, self.folder if route == "upload" else None)
        key, kinds = key_of(address), ["any"] + [k for k, routes in _COUNTED.items() if route in routes]
        for kind in kinds:
            self._open[kind, key] += 1
        try:
            refused = self._refusal(route, address, scope, most)
            if refused is None and route == "heartbeat":
                session = str(scope["path"]).rpartition("/")[2]
                self.sessions[session] += 1
                try:
                    await self.app(self._passed(route, scope), body, answer)
                finally:
                    self.sessions[session] -= 1
                    if not self.sessions[session]:
                        del self.sessions[session]
            elif refused is None:
                await self.app(self._passed(route, scope), body, answer)
            else:
                await _say(answer, *refused)
        except _Cut as e:
            if status == 0:
                await _say(answer, *e.said)
        finally:
            for kind in kinds:
                self._open[kind, key] -= 1
                if not self._open[kind, key]:
                    del self._open[kind, key]
            if route == "login" and status == 200:
                self.rates.signed_in(address)
            seconds, named = perf_counter() - start, route or ELSEWHERE
            self.observe(named, status, seconds)
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else ELSEWHERE
            event(log, "a request was answered", method=method, route=named, status=status, ms=round(seconds * 1e3, 1))
            request_id.reset(token)

    def _passed(self, route: str | None, scope: Scope) -> Scope:
        """The request as the page sees it: without what a visitor could make it believe of its own address."""
        dropped = {b"x-gradio-server"}
        if not self.forwarded:
            dropped |= {k for k, _ in scope["headers"] if k.lower().startswith(b"x-forwarded-")}
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in dropped]
        query = b"" if route == "info" else scope.get("query_string", b"")  # which would list private endpoints too
        return {**scope, "headers": headers, "query_string": query}

    def _answered(
        self, route: str | None, scope: Scope, headers: Iterable[tuple[bytes, bytes]], number: str
    ) -> list[tuple[bytes, bytes]]:
        """An answer's headers: ours, no leave for other sites, and nothing of a patient for a cache to keep."""
        kept = []
        for k, v in headers:
            key = k.lower()
            if key == b"x-request-id" or key.startswith(b"access-control-"):
                continue
            if key == b"cache-control" and route != "assets":
                continue
            if key == b"set-cookie":
                v = _strict(v)
                if scope.get("scheme") == "https" and v.startswith(b"access-token-unsecure-"):
                    continue  # Gradio sets it twice; this one would go out by plain HTTP too
            kept.append((k, v))
        if route != "assets":
            kept.append((b"cache-control", b"no-store"))
        return [*kept, *self.headers, (b"x-request-id", number.encode())]

    def _refusal(self, route: str | None, address: str, scope: Scope, most: int) -> tuple[int, str, float] | None:
        """Status, sentence and seconds to wait, or None where the request may pass."""
        headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get(b"host", "")
        asked = headers.get(b"x-forwarded-host", host).split(",")[0] if self.forwarded else host
        if route != "health" and not (self.names.know(asked) and self.names.know(host)):
            return 421, "This page has another name; name this one in NEUROVISION_HOSTS if it is right.", 0
        if route is None or (route in ("login", "logout") and self.signed_in is None):
            return 404, "There is nothing at this address.", 0
        if is_foreign(route, scope["headers"], asked):
            return 403, "Another site may not use this page.", 0
        key, limits = key_of(address), self.limits
        if limits.connections and route != "health" and self._open["any", key] > limits.connections:
            return 429, f"{limits.connections} requests are open from this address; close some pages.", 5
        if limits.pages and self._open["pages", key] > limits.pages:
            return 429, f"{limits.pages} pages are open from this address; close some.", 5
        if route == "login":
            if wait := self.rates.attempt(address):
                return 429, f"Too many wrong passwords; try again in {_words(wait)}.", wait
        elif self.signed_in is not None and route not in OPEN and not self.signed_in(_cookies(headers.get(b"cookie", ""))):
            return 401, "Sign in first.", 0
        stated = headers.get(b"content-length", "")
        length = int(stated) if stated.isascii() and stated.isdigit() else 0
        if most and length > most:
            return 413, f"A request may have {most >> 20} MB; received {length >> 20} MB, send less at once.", 0
        if route == "upload":
            if wait := self.rates.upload(address):
                return 429, f"{self.limits.uploads} uploads a minute are taken; try again in {_words(wait)}.", wait
            if shutil.disk_usage(self.folder).free < length + SPARE_DISK:
                return 507, NO_ROOM, 60
        elif route in _COUNTED["places"]:
            if wait := self.rates.call(address):
                return 429, f"{self.limits.calls} actions a minute are taken; try again in {_words(wait)}.", wait
            if limits.places and self.queued(address) + self._open["places", key] > limits.places:
                return 429, f"{limits.places} actions of this address wait already; try again when one is done.", 5
        return None


def _strict(cookie: bytes) -> bytes:
    """A Set-Cookie value that no other site's request carries, and no script reads."""
    parts = [p.strip() for p in cookie.split(b";")]
    kept = [p for p in parts if p.lower().partition(b"=")[0] not in (b"samesite", b"httponly")]
    return b"; ".join([*kept, b"HttpOnly", b"SameSite=Strict"])


def _cookies(header: str) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header)
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _words(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a moment"


def _closing(status: int, wait: float) -> list[tuple[bytes, bytes]]:
    """A refusal's headers: when to try again, and that the rest of a body is not waited for."""
    headers = [(b"connection", b"close")] if status in (408, 413, 507) else []
    return [*headers, (b"retry-after", str(int(wait) + 1).encode())] if wait else headers


async def _say(send: Send, status: int, sentence: str, wait: float = 0) -> None:
    headers = [(b"content-type", b"application/json"), *_closing(status, wait)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})
