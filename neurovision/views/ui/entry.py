"""Which requests reach the page: its own routes, by its own names, from its own site."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

NAME = r"[A-Za-z0-9_-]{1,64}"
API = "/gradio_api"
# All that the page and a client of its API use; whatever else Gradio offers is closed. The name is what a log may say.
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("page", "GET HEAD", "/"),
    ("health", "GET HEAD", "/healthz|/readyz"),
    ("login", "POST", "/login/?"),
    ("logout", "GET", "/logout"),
    ("config", "GET", "/config/?"),
    ("assets", "GET HEAD", rf"/(assets|static|svelte)/.+|/favicon\.ico|/robots\.txt|({API})?/theme\.css"),
    ("viewer", "GET HEAD", r"/viewer/niivue-[0-9.]{1,20}\.js"),
    ("info", "GET", f"{API}/info/?"),
    ("app_id", "GET", f"{API}/app_id/?"),
    ("startup", "GET", f"{API}/startup-events"),
    ("upload", "POST", f"{API}/upload/?"),
    ("progress", "GET", f"{API}/upload_progress"),
    ("file", "GET HEAD", f"{API}/file=/.+|{API}/file=[A-Za-z]:.+"),  # a path; a web address would be fetched
    ("join", "POST", f"{API}/queue/join/?"),
    ("stream", "GET", f"{API}/queue/data"),
    ("call", "POST", f"{API}/call/{NAME}/?"),
    ("result", "GET", f"{API}/call/{NAME}/{NAME}"),
    ("heartbeat", "GET", f"{API}/heartbeat/{NAME}"),
    ("reset", "POST", f"{API}/(reset|cancel)/?"),
)
_PATTERNS = [(name, methods.split(), re.compile(pattern)) for name, methods, pattern in ROUTES]
OPEN = frozenset({"page", "health", "login", "assets"})  # without a cookie, where there is a login
ELSEWHERE = "other"  # what a log says of a path that is none of the page's


def route_of(method: str, path: str) -> str | None:
    """The name of the route that a request asks for, or None where the page has none."""
    return next((n for n, methods, pattern in _PATTERNS if method in methods and pattern.fullmatch(path)), None)


@dataclass(frozen=True)
class Names:
    """The hosts that the page answers to: a name of somebody else's that leads here is a rebinding attack.

    An address in figures is always taken: it is in the browser's address bar only where a person, or a page of that very
    address, put it there.

    Attributes:
        hosts: Names in small letters, without ports.
    """

    hosts: frozenset[str] = frozenset({"localhost"})

    @classmethod
    def from_environment(cls) -> Names:
        """Read NEUROVISION_HOSTS (names with commas or spaces between), a Space's own name, and GRADIO_ROOT_PATH's."""
        names = os.environ.get("NEUROVISION_HOSTS", "").replace(",", " ").split()
        names += os.environ.get("SPACE_HOST", "").replace(",", " ").split()
        names += [os.environ.get("GRADIO_SERVER_NAME", ""), urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).hostname or ""]
        return cls(cls.hosts | {name.lower() for name in names if name})

    def know(self, host: str) -> bool:
        """Whether a Host header names this page."""
        name = _name(host)
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    host = host.strip().lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def is_foreign(route: str, headers: Iterable[tuple[bytes, bytes]], host: str) -> bool:
    """Whether another site sent a request: by Sec-Fetch-Site, which no page can forge, and by Origin.

    A link to the page, or its frame where one is allowed, may come from anywhere; what is no browser sends neither header.
    """
    values = {k.decode("latin-1").lower(): v.decode("latin-1").strip().lower() for k, v in headers}
    site, origin = values.get("sec-fetch-site"), values.get("origin")
    if route == "page" and values.get("sec-fetch-mode") == "navigate":
        return False
    if site is not None and site not in ("same-origin", "none"):
        return True
    return origin is not None and urlsplit(origin).netloc != host.strip().lower()
