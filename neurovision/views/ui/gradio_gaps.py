"""What Gradio 6.31 leaves open when a page is mounted in an application, closed in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio import processing_utils

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
