"""The page by one process, with the limits that the command line sets.

What a visitor opens lives in that process: the session, the queue, the uploads in its private folder, the counters of the
limits. More visitors at once are served by more such processes behind a proxy that keeps each address with one of them,
see docs/operations.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from neurovision.ensemble.pipeline import Analyzer


@dataclass(frozen=True)
class PageLimits:
    """What one address may do, as ``views.ui.guard.Limits`` reads it from the environment; None leaves its default.

    Attributes:
        uploads: Upload requests a minute.
        calls: Analyses and other actions a minute.
        upload_mb: MB of one upload, all its files together.
    """

    uploads: int | None = None
    calls: int | None = None
    upload_mb: int | None = None

    def environment(self) -> dict[str, str]:
        """The variables that say so."""
        settings = {
            "NEUROVISION_UPLOADS_PER_MINUTE": self.uploads, "NEUROVISION_CALLS_PER_MINUTE": self.calls,
            "NEUROVISION_UPLOAD_MB": self.upload_mb,
        }  # fmt: skip
        return {name: str(value) for name, value in settings.items() if value is not None}


def serve(
    host: str | None = None,
    port: int | None = None,
    limits: PageLimits | None = None,
    load: Callable[[], Analyzer] = Analyzer.load,
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        host: As of ``views.ui.page.serve``.
        port: As of ``views.ui.page.serve``.
        limits: Of one address.
        load: Makes the analyzer.
    """
    os.environ.update((limits or PageLimits()).environment())
    from neurovision.views.ui.page import serve as serve_page

    serve_page(host, port, load)
