"""What Gradio 6.31 leaves open when a page is mounted in an application, closed in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio import processing_utils
from gradio.state_holder import StateHolder

from neurovision.views.ui.rates import key_of

if TYPE_CHECKING:
    from fastapi import FastAPI


def close(page: gr.Blocks) -> None:
    """Close the gaps of a page that :func:`gradio.mount_gradio_app` will serve.

    - ``mount_gradio_app`` never sets ``has_launched``, without which ``processing_utils._check_allowed`` lets every path
      of the server pass as a visitor's file: Gradio would read it, or copy it to where it can be fetched.
    - A web address in the place of an upload is looked up and fetched before any handler is asked.
    """
    page.has_launched = True
    for name in ("async_ssrf_protected_download", "ssrf_protected_download"):
        getattr(processing_utils, name)  # a version without it has to be looked at anew
        setattr(processing_utils, name, _refuse)


def _refuse(*args: object, **kwargs: object) -> Any:
    raise gr.Error("A scan is uploaded, not named by a web address.", print_exception=False)


def signed_in(app: FastAPI) -> Callable[[dict[str, str]], bool]:
    """The test whether a visitor's cookies are of one who signed in to the page mounted in ``app``.

    Gradio asks for a login by route and forgets some of them (``heartbeat``, ``startup-events``, ``reset``, ``cancel``).
    """
    mounted = app.routes[-1].app  # type: ignore[attr-defined]

    def known(cookies: dict[str, str]) -> bool:
        names = (f"access-token-{mounted.cookie_id}", f"access-token-unsecure-{mounted.cookie_id}")
        return any(cookies.get(name) in mounted.tokens for name in names)

    return known


class Sessions(StateHolder):
    """The visitors' sessions: where there are too many, one whose page is open is the last to go.

    Gradio drops the one that was used longest ago, and opens one for every call of its API: one program could make it
    drop the cases that all others have open.

    Attributes:
        open: The sessions whose page keeps its heartbeat, each with how many do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: Counter[str] = Counter()

    def update(self, session_id: str) -> None:
        """See StateHolder."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            if len(self.session_data) > self.capacity:
                others = (s for s in self.session_data if not self.open[s] and s != session_id)
                evicted = next(others, next(iter(self.session_data)))
                del self.session_data[evicted]
                self.time_last_used.pop(evicted, None)


def keep_open_sessions(app: FastAPI, page: gr.Blocks) -> Sessions:
    """Let the page mounted in ``app`` keep its sessions in :class:`Sessions`."""
    sessions = Sessions()
    app.routes[-1].app.state_holder = sessions  # type: ignore[attr-defined]
    sessions.set_blocks(page)
    return sessions


def queued(page: gr.Blocks) -> Callable[[str], int]:
    """The count of actions that an address has in the page's queue, running ones included."""

    def count(address: str) -> int:
        queue, key = page._queue, key_of(address)
        waiting = [e for events in queue.event_queue_per_concurrency_id.values() for e in events.queue]
        running = [e for job in queue.active_jobs if job for e in job]
        clients = [e.request.client for e in (*waiting, *running) if e.request is not None]
        return sum(client is not None and key_of(client.host) == key for client in clients)

    return count
