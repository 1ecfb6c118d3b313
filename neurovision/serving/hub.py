"""Weights from and to the Hugging Face Hub, pinned by commit and by digest.

A reference is ``owner/name@commit#digest``: the commit names a revision for good, the digest is the sha256 of its
``manifest.json``, which in turn holds the sha256 of every other file. What does not have its digest is refused.

Whoever talks to the Hub is a process of its own, which runs this module: the one that serves the page stays offline,
and the Hub's client gets exactly the settings below, whatever was imported or set before: no telemetry, no update check,
and no token but the one that is named here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from neurovision import errors
from neurovision.ensemble.weights import CURRENT, FILE, fetched_sets, load_manifest, local_weights
from neurovision.errors import HubError, WeightsError, WeightsTampered
from neurovision.files import write

if TYPE_CHECKING:
    from neurovision.ensemble.pipeline import Analyzer

VARIABLE, TOKEN = "NEUROVISION_HUB", "NEUROVISION_HUB_TOKEN"
CARD = "README.md"  # the model card's name on the Hub
TRIES = 4  # of one step, beside the client's own
# The page switches its own process offline; what counts here is what the user had asked for.
_OFFLINE = os.environ.get("HF_HUB_OFFLINE")
_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_XET": "1",  # the files are small, and plain HTTP can be watched and tested
}  # fmt: skip

_LACKS = "{repo} lacks a file that a set of weights needs; check the reference."


@dataclass(frozen=True)
class Reference:
    """A set of weights on the Hub.

    Attributes:
        repo: ``owner/name``.
        revision: A commit of 40 hex digits, or a branch or tag; None is the main branch.
        digest: sha256 of the manifest that must be found there, or None.
    """

    repo: str
    revision: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``owner/name``, ``owner/name@revision`` or ``owner/name@revision#digest``.

        Raises:
            HubError: It is none of these.
        """
        found = re.fullmatch(r"([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,100}))?(?:#([0-9a-f]{64}))?", text.strip())
        if found is None or ".." in text:
            raise HubError(
                "A set of weights on the Hub is named owner/name@revision, or owner/name@revision#sha256-of-the-manifest; "
                f"received {text!r}."
            )
        return cls(*found.groups())

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which nobody can move."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision or "") is not None

    @property
    def folder(self) -> Path:
        """Where a pinned set is kept."""
        return fetched_sets() / f"{self.repo.replace('/', '--')}@{self.revision}"

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f"#{self.digest}" if self.digest else "")


def provide() -> Path | None:
    """The weights folder where the environment variable NEUROVISION_HUB pins one and none is on this machine, else None.

    Nothing is ever fetched that the user has not named there.

    Raises:
        HubError: The variable pins no commit, or the Hub cannot be reached or refuses.
        WeightsError: What was fetched is not what was pinned.
    """
    named = os.environ.get(VARIABLE)
    if not named or local_weights() is not None:
        return None
    reference = Reference.parse(named)
    if not reference.pinned:
        raise HubError(
            f"{VARIABLE} must pin a commit, owner/name@commit; received {named!r}. "
            f"'neurovision hub pull {reference}' prints what to write."
        )
    return pull(reference)[1]


def load_analyzer() -> Analyzer:
    """The Analyzer on local weights, else on fetched ones, else on those that NEUROVISION_HUB pins.

    Raises:
        HubError: See :func:`provide`.
        WeightsError: A file is missing or is not the shipped one.
    """
    from neurovision.ensemble.pipeline import Analyzer

    return Analyzer.load(provide())


def pull(reference: Reference) -> tuple[Reference, Path]:
    """Fetch a set of weights and its card, or find them among what was fetched before.

    A set that is complete is not asked for again, so that it serves offline. What an interrupted pull has finished is kept
    and checked; the next one goes on with the file that was cut off.

    Returns:
        The reference with its commit and digest filled in, and the folder.

    Raises:
        HubError: The Hub cannot be reached, or has no such set.
        WeightsError: A file is not the one that the manifest, or the reference, names.
    """
    from filelock import FileLock

    found = _complete(reference)
    try:
        if found is None:
            fetched_sets().mkdir(parents=True, exist_ok=True)
            with FileLock(fetched_sets() / f".{reference.folder.name}.lock"):  # the workers of one server start together
                found = _complete(reference) or Reference.parse(_transfer("pull", reference=str(reference)))
        current = fetched_sets() / CURRENT
        if not current.is_file() or current.read_text() != found.folder.name:
            write(current, found.folder.name)
    except OSError as e:
        raise HubError(f"Weights cannot be kept in the user's cache ({e.strerror}); set XDG_CACHE_HOME.") from e
    return found, found.folder


def push(weights: Path | None, repo: str, card: Path, private: bool = False, message: str = "Weights") -> Reference:
    """Publish a weights folder and its card as one commit; the repository is made if need be.

    Args:
        weights: The folder; the one that the product uses by default.
        repo: ``owner/name``.
        card: The model card, which must be of these very weights.
        private: Make a new repository private.
        message: The commit's.

    Returns:
        The pinned reference of what was published.

    Raises:
        HubError: No token is set, the card is of other weights, or the Hub cannot be reached or refuses.
        WeightsError: The folder is not sound.
    """
    reference = Reference.parse(repo)
    if reference.revision or reference.digest:
        raise HubError(f"Weights are published to owner/name; received {repo!r}.")
    if not (os.environ.get(TOKEN) or os.environ.get("HF_TOKEN")):
        raise HubError(f"Publishing needs a token that may write; set {TOKEN}.")
    manifest = load_manifest(weights)
    for file in manifest.files:
        manifest.read(file)
    if not card.is_file() or manifest.digest[:12] not in card.read_text(encoding="utf-8"):
        raise HubError(f"The card {card.name} is not of these weights ({manifest.digest[:12]}); run 'neurovision evaluate'.")
    files = {name: str(manifest.folder.resolve() / name) for name in (FILE, *(n for n, _ in listed(manifest.folder)))}
    files[CARD] = str(card.resolve())
    return Reference(repo, _transfer("push", repo=repo, files=files, private=private, message=message), manifest.digest)


def listed(folder: Path) -> list[tuple[str, str]]:
    """Every file that a folder's manifest names, with its sha256.

    Raises:
        WeightsTampered: The manifest is not one that this version reads, or a name would lead out of the folder.
    """
    return sorted({(f.file, f.sha256) for f in load_manifest(folder).files})


def _complete(reference: Reference) -> Reference | None:
    """The reference with its digest, where it is pinned and everything is here and sound; None where it must be fetched.

    Raises:
        WeightsTampered: A sound set is here, whose digest is not the pinned one.
    """
    folder = reference.folder
    if not reference.pinned or not (folder / FILE).is_file():
        return None
    try:
        if not all(_is(folder / name, expected) for name, expected in listed(folder)):
            return None
    except WeightsError:  # a manifest that was damaged
        return None
    digest = sha256((folder / FILE).read_bytes()).hexdigest()
    if reference.digest not in (None, digest):
        raise _not_pinned(reference, digest)
    return replace(reference, digest=digest)


def _not_pinned(reference: Reference, digest: str) -> WeightsTampered:
    return WeightsTampered(
        f"{FILE} of {reference.repo} is not the one that was pinned (sha256 {digest[:12]}, expected "
        f"{str(reference.digest)[:12]}); check the reference."
    )


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == digest


def _transfer(what: str, **given: Any) -> str:
    """Have a process of its own do one thing with the Hub, ``pull`` or ``push``.

    Raises:
        HubError: It could not.
        WeightsError: What came is not what was asked for.
    """
    token = os.environ.get(TOKEN) or (os.environ.get("HF_TOKEN") if what == "push" else None)
    if token and not _private_way(os.environ.get("HF_ENDPOINT") or "https:"):
        raise HubError("A token is only sent over https; change HF_ENDPOINT or take the token away.")
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE", TOKEN)}
    package = str(Path(__file__).parents[2])
    environment |= _SETTINGS | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    if _OFFLINE:
        environment["HF_HUB_OFFLINE"] = _OFFLINE
    done = subprocess.run(
        [sys.executable, "-m", "neurovision.serving.hub"], input=json.dumps({"do": what, "token": token, **given}),
        env=environment, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    try:
        answer: dict[str, str] = json.loads(done.stdout)
    except ValueError as e:
        raise HubError(f"The Hub's client ended unexpectedly (exit code {done.returncode}); try again.") from e
    if "error" in answer:
        raise getattr(errors, answer["kind"])(answer["error"])
    return answer["done"]


def _private_way(endpoint: str) -> bool:
    """Whether nobody on the way can read what is sent: https, or this very machine."""
    parts = urlsplit(endpoint)
    try:
        return parts.scheme == "https" or parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


# --- the process that talks to the Hub -------------------------------------------------------------------------------


def _answer(do: str, token: str | None, **given: Any) -> dict[str, str]:
    """Do what is asked: ``{"done": a reference or a commit}``, or ``{"kind": an error's class, "error": a sentence}``."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub import errors as theirs

    constants.DOWNLOAD_CHUNK_SIZE = 1 << 16  # bytes; what a broken connection loses of a file, by default 10 MiB
    repo = given["repo"] if do == "push" else Reference.parse(given["reference"]).repo
    try:
        return {"done": _push(token, **given) if do == "push" else str(_pull(Reference.parse(given["reference"]), token))}
    except (HubError, WeightsError) as e:
        return {"kind": type(e).__name__, "error": str(e)}
    except theirs.RepositoryNotFoundError:
        said = f"The Hub shows no repository {repo}; check it, or set {TOKEN} for a private one."
    except theirs.RevisionNotFoundError:
        said = f"{repo} has no revision {Reference.parse(given['reference']).revision}; check the reference."
    except theirs.RemoteEntryNotFoundError:
        said = _LACKS.format(repo=repo)
    except (theirs.OfflineModeIsEnabled, theirs.LocalEntryNotFoundError, httpx2.TransportError) as e:
        offline = isinstance(e, theirs.OfflineModeIsEnabled) or isinstance(e.__cause__, theirs.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else "there is no connection"
        said = f"The Hub cannot be reached ({why}); connect once, or put the weights into a folder weights/."
    except theirs.HfHubHTTPError as e:
        code = e.response.status_code
        why = "the token may not do this" if code in (401, 403) else "try again later"
        said = f"The Hub refuses {repo} (status {code}): {why}."
    except OSError as e:
        said = f"The files of {repo} cannot be read or kept ({e.strerror or type(e).__name__})."
    except ValueError as e:  # the Hub's own check of the card, or an answer that is none of a Hub
        said = f"The Hub does not take this: {str(e).splitlines()[0]}"
    return {"kind": "HubError", "error": said}


def _pull(reference: Reference, token: str | None) -> Reference:
    """Fetch what is missing or unsound, the manifest first; what then is not what it should be is removed."""
    import httpx2
    import tenacity
    from huggingface_hub import HfApi

    api = HfApi(token=token or False)
    # The client itself goes on only after some kinds of break.
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((httpx2.ReadError, httpx2.RemoteProtocolError)),
        stop=tenacity.stop_after_attempt(TRIES), wait=tenacity.wait_incrementing(1, 1), reraise=True,
    )  # fmt: skip
    # Asked for a commit too: without a connection this fails at once.
    resolved = replace(reference, revision=str(again(api.model_info, reference.repo, revision=reference.revision).sha))
    if (found := _complete(resolved)) is not None:
        return found
    folder = resolved.folder
    (folder / FILE).unlink(missing_ok=True)
    place = {"repo_id": resolved.repo, "revision": resolved.revision, "local_dir": folder}
    again(api.hf_hub_download, filename=FILE, **place)
    digest = sha256((folder / FILE).read_bytes()).hexdigest()
    if resolved.digest not in (None, digest):
        (folder / FILE).unlink()
        raise _not_pinned(resolved, digest)
    missing = [name for name, expected in listed(folder) if not _is(folder / name, expected)]
    for name in missing:
        (folder / name).unlink(missing_ok=True)  # whatever lies there was not sound
    again(api.snapshot_download, allow_patterns=[*missing, CARD], max_workers=2, **place)
    if not all((folder / name).is_file() for name in missing):
        raise HubError(_LACKS.format(repo=resolved.repo))
    for name, expected in listed(folder):
        if not _is(folder / name, expected):
            (folder / name).unlink()
            raise WeightsTampered(
                f"{name} of {resolved.repo} is not the file that its manifest names; it was removed, ask the owner."
            )
    return replace(resolved, digest=digest)


def _push(token: str | None, repo: str, files: dict[str, str], private: bool, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    return str(api.create_commit(repo, operations, commit_message=message).oid)


if __name__ == "__main__":
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    print(json.dumps(_answer(**json.load(sys.stdin))))
