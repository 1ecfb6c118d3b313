"""The page's process talks to nobody but those who talk to it."""

from __future__ import annotations

import ipaddress
import logging
import sys
from typing import Any

from neurovision.logs import event

log = logging.getLogger(__name__)
_sealed = False


def seal() -> None:
    """Refuse every connection that Python code in this process would open to another machine, and every name lookup.

    A library that calls home, or an upload given as a web address, thus fails at once. Connections that come in are
    not affected. It cannot be undone.
    """
    global _sealed
    if not _sealed:
        _sealed = True
        sys.addaudithook(_hook)


def _hook(name: str, args: tuple[Any, ...]) -> None:
    if name in ("socket.connect", "socket.sendto", "socket.sendmsg") and len(args) > 1:
        inside = _is_inside(args[1])
    elif name in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        inside = _is_inside((args[0],))
    else:
        return
    if not inside:
        event(log, "a connection to another machine was refused", logging.WARNING)
        raise PermissionError("This program opens no connection to another machine.")


def _is_inside(address: Any) -> bool:
    if not isinstance(address, tuple) or not address:
        return True  # a socket of this machine, or an address given before
    host = address[0].decode(errors="replace") if isinstance(address[0], bytes) else address[0]
    if host in (None, "", "localhost"):
        return True
    try:
        ip = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified
