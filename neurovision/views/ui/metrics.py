"""Figures for a Prometheus server, on a port of their own: nobody who uses the page sees them.

Opt-in: NEUROVISION_METRICS names a port of this machine (``9090``), or an address and a port (``0.0.0.0:9090``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neurovision.ensemble.drift import load_reference

if TYPE_CHECKING:
    from neurovision.views.ui.room import Room

VARIABLE = "NEUROVISION_METRICS"


class Drift:
    """A Prometheus collector of the tally's counts and of how far they are from the training set's."""

    def __init__(self, room: Room) -> None:
        self._room, self._reference = room, load_reference()

    def collect(self) -> Iterator[Any]:
        """See prometheus_client's collectors."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        seen = CounterMetricFamily("neurovision_slices", "Analyzed slices by figure and bin.", labels=["figure", "bin"])
        for figure, bins in self._room.tally.counts().items():
            for which, count in bins.items():
                seen.add_metric([figure, which], count)
        yield seen
        moved = GaugeMetricFamily(
            "neurovision_drift", "Population stability index against the training set; above 0.25 is another population.",
            labels=["figure"],
        )  # fmt: skip
        for figure, index in self._room.tally.drift(self._reference).items():
            moved.add_metric([figure], index)
        yield moved
        ready = GaugeMetricFamily("neurovision_ready", "1 once the models are loaded.")
        ready.add_metric([], float(self._room.state == "ready"))
        yield ready


class Metrics:
    """Requests and drift, registered apart from the library's global registry.

    Raises:
        SystemExit: prometheus-client is not installed.
    """

    def __init__(self, room: Room) -> None:
        try:
            from prometheus_client import CollectorRegistry, Histogram
        except ModuleNotFoundError:
            raise SystemExit(f"{VARIABLE} needs prometheus-client; install 'neurovision[metrics]'.") from None
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "neurovision_request_seconds", "Requests by route and status.", ["route", "status"], registry=self.registry,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.registry.register(Drift(room))

    @classmethod
    def from_environment(cls, room: Room) -> Metrics | None:
        """Serve metrics where the environment asks for them.

        Raises:
            SystemExit: What it says is no port, the port is taken, or prometheus-client is not installed.
        """
        address = os.environ.get(VARIABLE)
        if not address:
            return None
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise SystemExit(f"{VARIABLE} is a port such as 9090, or an address and a port such as 0.0.0.0:9090.")
        metrics = cls(room)
        from prometheus_client import start_http_server

        try:
            start_http_server(int(port), host or "127.0.0.1", registry=metrics.registry)
        except OSError as e:
            raise SystemExit(f"{VARIABLE}: cannot listen on port {port} ({e.strerror}); name a free one.") from None
        return metrics

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).observe(seconds)
