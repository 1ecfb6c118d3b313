"""Execute a Dockerfile's lines in fresh roots, where there is no container engine: ``make container-check``.

Every stage gets a root of its own: Debian's bookworm with its Python 3.11 stands in for ``python:3.11-slim``, which is the
same distribution. ARG, ENV, WORKDIR, COPY, RUN and USER do what they say; then CMD is started as the image's user, on a
read-only root with a tmpfs on /tmp, and HEALTHCHECK is asked until it succeeds. The sizes are those of the files, before any
compression. Needs root, debootstrap, unshare and setpriv.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASES = {"python:3.11-slim": "ca-certificates,python3,python3-venv", "debian:bookworm-slim": "ca-certificates"}
LIMIT = 2.5e9  # bytes of the image
KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD")


@dataclass
class Stage:
    """One image in the making: its files, and what its Dockerfile says of its processes."""

    name: str
    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    sizes: list[tuple[str, int]] = field(default_factory=list)  # bytes that each line has added


def parse(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile as word and rest, continued lines joined.

    Raises:
        ValueError: A word that this program does not execute.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    found = [(word, rest) for word, rest in (line.split(None, 1) for line in joined)]
    if unknown := sorted({word for word, _ in found} - set(KNOWN)):
        raise ValueError(f"Only {', '.join(KNOWN)} are executed; received {', '.join(unknown)}.")
    return found


def assignments(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """``A=b C="d $A"`` as a dict, known variables put in."""
    pairs = (part.partition("=") for part in shlex.split(text))
    return {k: re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), v) for k, _, v in pairs}


def context(folder: Path) -> Iterator[Path]:
    """Files that a build may see, relative to the folder: what ``.dockerignore`` leaves of it, its last match deciding."""
    ignore = folder / ".dockerignore"
    rules = [line.strip() for line in ignore.read_text().splitlines() if line.strip()] if ignore.is_file() else []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name, left_out = path.relative_to(folder), False
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            parts = name.parts if "**/" in rule else (str(name), *(str(p) for p in name.parents if str(p) != "."))
            if any(fnmatch(part, pattern) for part in parts):
                left_out = not rule.startswith("!")
        if not left_out:
            yield name


def copy_in(files: list[Path], sources: list[str], source_root: Path, target: Path, into_folder: bool) -> None:
    """COPY: files and the content of folders, as the build would.

    Raises:
        FileNotFoundError: A source is not in the context.
    """
    for source in sources:
        wanted = [f for f in files if f.is_relative_to(source)]
        if not wanted:
            raise FileNotFoundError(f"COPY {source}: it is not in the build's context")
        for file in wanted:
            whole = target / file.name if into_folder else target
            place = whole if file == Path(source) else target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source_root / file, place)


def size(root: Path) -> int:
    """Bytes of a root's files; a file with several names counts once."""
    return int(subprocess.check_output(["du", "--summarize", "--bytes", "--one-file-system", root], text=True).split()[0])


class Machine:
    """Makes roots in the folder ``work`` and runs commands in them, which also see the paths ``bind`` of this machine."""

    def __init__(self, work: Path, bind: list[Path]) -> None:
        self.work, self.bind = work, bind
        passed = ("PIP_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        self.passed = {k: v for k, v in os.environ.items() if k.startswith(passed)} if bind else {}

    def base(self, name: str) -> Path:
        """A root of a base image, made once."""
        made = self.work / ("base-" + re.sub(r"\W", "-", name))
        if not made.is_dir():
            part = made.with_name(made.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            subprocess.run(["debootstrap", "--variant=minbase", f"--include={BASES[name]}", "bookworm", part], check=True)
            for left in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):  # as the slim images
                shutil.rmtree(part / left, ignore_errors=True)
                (part / left).mkdir(parents=True)
            if "python3" in BASES[name]:
                (part / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
            part.rename(made)
        return made

    def command(self, stage: Stage, words: list[str], read_only: bool = False) -> list[str]:
        """What to start on this machine so that ``words`` run in the stage's root, as its user, in its folder."""
        root = str(stage.root)
        lines = [f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"]  # of this machine, for what is done before the root changes
        lines += [f"mount --rbind {root} {root}", f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        if read_only:
            lines[2:2] = [f"mount -o remount,bind,ro {root}"]
            lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp")
        else:
            for path in (Path("/etc/resolv.conf"), *self.bind):
                place = stage.root / path.relative_to("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    place.mkdir(exist_ok=True)
                else:
                    place.touch()
                lines.append(f"mount --bind {path.resolve()} {place}")
        path = shlex.quote(stage.environment["PATH"])
        inner = f"export PATH={path} && cd {shlex.quote(stage.folder)} && exec " + shlex.join(words)
        user = ["setpriv", f"--reuid={stage.user}", f"--regid={stage.user}", "--clear-groups"]
        as_user = "PATH=/usr/bin:/bin exec " + shlex.join([*user, "/bin/sh", "-c", inner])
        lines.append("exec chroot " + shlex.join([root, "/bin/sh", "-c", as_user]))
        return ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-e", "-c", "\n".join(lines)]

    def run(self, stage: Stage, text: str) -> None:
        """RUN: a shell's line."""
        environment = {**self.passed, **stage.arguments, **stage.environment}
        subprocess.run(self.command(stage, ["/bin/sh", "-c", text]), env=environment, check=True)


def execute(dockerfile: Path, folder: Path, machine: Machine, arguments: Mapping[str, str]) -> Stage:
    """Execute every line; returns the last stage.

    Raises:
        subprocess.CalledProcessError: A RUN failed.
    """
    stages: dict[str, Stage] = {}
    files = list(context(folder))
    for word, text in parse(dockerfile.read_text()):
        print(f"{word} {text[:110]}", flush=True)
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            name = name.strip() or str(len(stages))
            root = machine.work / f"stage-{name}"
            shutil.rmtree(root, ignore_errors=True)
            subprocess.run(["cp", "--archive", machine.base(base.strip()), root], check=True)
            stage = stages[name] = Stage(name, root, sizes=[(f"{word} {base}", size(root))])
            continue
        before = size(stage.root) if word in ("COPY", "RUN") else 0
        if word == "ARG":
            stage.arguments |= {k: arguments.get(k, v) for k, v in assignments(text, stage.environment).items()}
        elif word == "ENV":
            stage.environment |= assignments(text, {**stage.arguments, **stage.environment})
        elif word == "WORKDIR":
            stage.folder = text
            (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            stage.user = text
        elif word == "COPY":
            *sources, target = text.split()
            place = stage.root / str(Path(stage.folder) / target).lstrip("/")
            if sources[0].startswith("--from="):
                other = stages[sources[0].removeprefix("--from=")]
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--archive", other.root / sources[1].lstrip("/"), place], check=True)
            else:
                copy_in(files, sources, folder, place, target.endswith("/"))
        elif word == "RUN":
            machine.run(stage, text)
        elif word == "HEALTHCHECK":
            stage.health = json.loads(text.partition("CMD ")[2])
        elif word == "CMD":
            stage.command = json.loads(text)
        if before:
            stage.sizes.append((f"{word} {text}", size(stage.root) - before))
    return stage


def healthy(machine: Machine, stage: Stage, limit: float) -> float:
    """Start CMD on a read-only root and ask HEALTHCHECK; returns the seconds until it succeeds.

    Raises:
        SystemExit: It ended, or was not healthy within ``limit`` seconds.
    """
    environment = stage.environment
    began = time.perf_counter()
    command = machine.command(stage, stage.command, read_only=True)
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while time.perf_counter() - began < limit:
            if process.poll() is not None:
                sys.exit(f"CMD ended with code {process.returncode}.")
            asked = subprocess.run(
                machine.command(stage, stage.health, read_only=True), env=environment, stderr=subprocess.DEVNULL, check=False
            )
            if asked.returncode == 0 and process.poll() is None:
                return time.perf_counter() - began
            time.sleep(1)
        sys.exit(f"HEALTHCHECK did not succeed within {limit:.0f} s.")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # unshare heeds no SIGTERM, and a change of user undoes --kill-child
        process.wait(60)


def report(dockerfile: Path, stage: Stage, seconds: float) -> str:
    """What was measured, as Markdown."""
    rows = [f"| `{text if len(text) < 70 else text[:67] + '...'}` | {grown / 1e6:.1f} |" for text, grown in stage.sizes]
    lines = [
        f"Written by `python -m tests.run_lines {dockerfile.name}` on {datetime.now(UTC):%Y-%m-%d}, which executes the "
        "Dockerfile's lines without a container engine, in fresh roots of Debian bookworm and its Python 3.11. Sizes are "
        "those of the files, before any compression.",
        "",
        "| line of the last stage | MB |", "| --- | --- |", *rows,
        f"| **the image's files**, of at most {LIMIT / 1e6:.0f} | **{size(stage.root) / 1e6:.0f}** |", "",
        f"CMD as user {stage.user} on a read-only root with a tmpfs on /tmp: HEALTHCHECK succeeded {seconds:.1f} s after "
        f"the start, on {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores at a load of {os.getloadavg()[0]:.1f} "
        "(a load above the cores means that other work shared them).",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Execute, start, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, help="path of this machine that RUN lines see too")
    parser.add_argument("--write", type=Path, help="also write the result into this file")
    given = parser.parse_args()
    missing = [tool for tool in ("debootstrap", "unshare", "setpriv", "chroot") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        sys.exit(f"This needs root{''.join(' and ' + tool for tool in missing)}.")
    with tempfile.TemporaryDirectory(prefix="run-lines-") as name:
        machine = Machine(Path(name), given.bind)
        stage = execute(given.dockerfile, ROOT, machine, dict(pair.split("=", 1) for pair in given.build_arg))
        told = report(given.dockerfile, stage, healthy(machine, stage, 300))
        print(told)
        if given.write:
            given.write.write_text(f"# The container, as checked\n\n{told}")
        if size(stage.root) > LIMIT:
            sys.exit(f"The image is larger than {LIMIT / 1e9} GB.")


if __name__ == "__main__":
    main()
