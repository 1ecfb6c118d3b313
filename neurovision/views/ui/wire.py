"""The connections below the page: how many one address may hold, and how long the head of a request may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from neurovision.views.ui.rates import key_of

HEAD_SECONDS = 20.0  # for a connection without a request, and for the lines before a request's body


class Wire(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for a request's head for ever and answers a broken one without any header.

    Attributes:
        most: Open connections of one address; 0 for any number.
        extra: Headers of an answer to what is no HTTP request.
        held: Open connections by address.
    """

    most: ClassVar[int] = 0
    extra: ClassVar[list[tuple[bytes, bytes]]] = []
    held: ClassVar[Counter[str]] = Counter()
    _timer: asyncio.TimerHandle | None = None
    _key = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._key = key_of(self.client[0] if self.client else "")
        self.held[self._key] += 1
        if self.most and self.held[self._key] > self.most:
            transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._disarm()
        self.held[self._key] -= 1
        if not self.held[self._key]:
            del self.held[self._key]

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request, and hang up."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *self.extra]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=b"This is no HTTP request."),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """The clock runs while no request is being answered; bytes that trickle do not stop it."""
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._disarm()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def wire(most: int, headers: list[tuple[bytes, bytes]]) -> type[Wire]:
    """The protocol for uvicorn's ``http`` with these attributes."""
    return type("Wire", (Wire,), {"most": most, "extra": headers, "held": Counter()})
