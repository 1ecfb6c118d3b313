"""The process that talks to the Hugging Face Hub: a request as JSON on standard input, the answer on standard output.

Started by :mod:`neurovision.serving.hub`, which checks what came.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

TRIES = 4  # of one file, beside the client's own
CHUNK = 1 << 16  # bytes; what a broken connection loses of a file, and by the client's default that is 10 MiB

Result = TypeVar("Result")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked.

    Args:
        request: ``do`` (resolve, manifest, files or push), ``repo``, ``token``, and what that needs.

    Returns:
        ``{"revision": ...}``, ``{}``, or ``{"error": a sentence}``.
    """
    import httpx2
    from huggingface_hub import constants, errors

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    repo, token = request["repo"], request["token"] or False
    try:
        if request["do"] == "resolve":
            return {"revision": _resolve(repo, request["revision"], token)}
        if request["do"] == "manifest":
            _fetch(request, ["manifest.json"])
            return {}
        if request["do"] == "files":
            _fetch(request, [*request["files"], "README.md"])
            return {}
        return {"revision": _push(request)}
    except errors.RepositoryNotFoundError:
        return {"error": f"The Hub shows no repository {repo}; check it, or set NEUROVISION_HUB_TOKEN for a private one."}
    except errors.RevisionNotFoundError:
        return {"error": f"{repo} has no revision {request.get('revision')}; check the reference."}
    except errors.RemoteEntryNotFoundError:
        return {"error": f"{repo} lacks a file that a set of weights needs; check the reference."}
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError) as e:
        offline = isinstance(e, errors.OfflineModeIsEnabled) or isinstance(e.__cause__, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else "there is no connection"
        return {"error": f"The Hub cannot be reached ({why}); connect once, or put the weights into a folder weights/."}
    except errors.HfHubHTTPError as e:
        code = e.response.status_code
        why = "the token may not do this" if code in (401, 403) else "try again later"
        return {"error": f"The Hub refuses {repo} (status {code}): {why}."}
    except OSError as e:
        return {"error": f"The files of {repo} cannot be read or kept ({e.strerror or type(e).__name__})."}
    except ValueError as e:  # the Hub's own check of the card, or an answer that is none of a Hub
        return {"error": f"The Hub does not take this: {str(e).splitlines()[0]}"}


def _resolve(repo: str, revision: str | None, token: str | bool) -> str:
    """The commit behind a revision. Asked for a commit too: without a connection this fails at once, a download does not."""
    from huggingface_hub import HfApi

    return str(_insist(lambda: HfApi(token=token).model_info(repo, revision=revision).sha))


def _fetch(request: dict[str, Any], names: list[str]) -> None:
    from huggingface_hub import hf_hub_download

    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"revision": request["revision"], "local_dir": folder, "token": request["token"] or False}
    for name in names:
        (folder / name).unlink(missing_ok=True)  # whatever lies there was not sound
        _insist(partial(hf_hub_download, request["repo"], name, **settings))


def _push(request: dict[str, Any]) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=request["token"])
    api.create_repo(request["repo"], private=request["private"], exist_ok=True)
    operations = [CommitOperationAdd(name, path) for name, path in request["files"].items()]
    return api.create_commit(request["repo"], operations, commit_message=request["message"]).oid


def _insist(action: Callable[[], Result]) -> Result:
    """Try again where a connection breaks; the client itself goes on only after some kinds of break."""
    import httpx2

    for wait in range(1, TRIES):
        try:
            return action()
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            time.sleep(wait)
    return action()


if __name__ == "__main__":
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    print(json.dumps(answer(json.load(sys.stdin))))
