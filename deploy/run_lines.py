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
BASES = {
    "python:3.11-slim": ("ca-certificates", "python3", "python3-venv"),
    "debian:bookworm-slim": ("ca-certificates",),
}
LIMIT = 2.5e9  # bytes of the image
KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD")


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile, continued lines joined.

    Attributes:
        word: FROM, RUN and so on.
        text: What follows.
    """

    word: str
    text: str


@dataclass
class Stage:
    """One image on its way.

    Attributes:
        base: What FROM names.
        name: What AS names, or the stage's number.
        root: Its files.
        environment: Of its processes.
        arguments: Values of ARG.
        folder: Where it works.
        user: Who runs.
        health: Command of HEALTHCHECK.
        command: Of CMD.
        sizes: Bytes that the root has grown by, line by line.
    """

    base: str
    name: str
    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    sizes: list[tuple[str, int]] = field(default_factory=list)


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile.

    Raises:
        ValueError: A word that this program does not execute.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [Instruction(*line.split(None, 1)) for line in joined.splitlines()]
    unknown = sorted({i.word for i in found} - set(KNOWN))
    if unknown:
        raise ValueError(f"Only {', '.join(KNOWN)} are executed; received {', '.join(unknown)}.")
    return found


def assignments(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """``A=b C="d $A"`` as a dict, known variables put in."""

    def put(match: re.Match[str]) -> str:
        return values.get(match[1], match[0])

    return {k: re.sub(r"\$\{?(\w+)\}?", put, v) for k, _, v in (part.partition("=") for part in shlex.split(text))}


def context(folder: Path) -> Iterator[Path]:
    """Files that a build may see, relative to the folder: what ``.dockerignore`` leaves of it, its last match deciding."""
    ignore = folder / ".dockerignore"
    rules = [line.strip() for line in ignore.read_text().splitlines() if line.strip()] if ignore.is_file() else []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name, left_out = path.relative_to(folder).as_posix(), False
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            whole = [name, *(str(p) for p in Path(name).parents if str(p) != ".")]
            parts = Path(name).parts if "**/" in rule else whole
            if any(fnmatch(part, pattern) for part in parts):
                left_out = not rule.startswith("!")
        if not left_out:
            yield Path(name)


def copy_in(files: list[Path], sources: list[str], source_root: Path, target: Path, into_folder: bool) -> int:
    """COPY: files and the content of folders, as the build would; returns how many files came.

    Raises:
        FileNotFoundError: A source is not in the context.
    """
    count = 0
    for source in sources:
        wanted = [f for f in files if f == Path(source) or f.is_relative_to(source)]
        if not wanted:
            raise FileNotFoundError(f"COPY {source}: it is not in the build's context")
        for file in wanted:
            place = target / file.relative_to(source)
            if file == Path(source):
                place = target / file.name if into_folder else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source_root / file, place)
            count += 1
    return count


def size(root: Path) -> int:
    """Bytes of a root's files; a file with several names counts once."""
    command = ["du", "--summarize", "--bytes", "--one-file-system", str(root)]
    return int(subprocess.check_output(command, text=True).split()[0])


class Machine:
    """Makes roots and runs commands in them.

    Args:
        work: Folder of the roots.
        bind: Paths of this machine that processes also see, such as certificates and a package index.
    """

    def __init__(self, work: Path, bind: list[Path]) -> None:
        self.work, self.bind = work, bind
        passed = ("PIP_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        self.passed = {k: v for k, v in os.environ.items() if k.startswith(passed)} if bind else {}

    def base(self, name: str) -> Path:
        """A root of a base image, made once.

        Raises:
            ValueError: No stand-in is known for it.
        """
        if name not in BASES:
            raise ValueError(f"There is a stand-in for {', '.join(BASES)}; received {name}.")
        made = self.work / ("base-" + re.sub(r"\W", "-", name))
        if not made.is_dir():
            part = made.with_name(made.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            packages = ",".join(BASES[name])
            subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(part)], check=True)
            for left in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):  # as the slim images
                shutil.rmtree(part / left, ignore_errors=True)
                (part / left).mkdir(parents=True)
            if "python3" in BASES[name]:
                (part / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
            part.rename(made)
        return made

    def copy_of(self, root: Path, name: str) -> Path:
        """A copy of a root, to be changed."""
        target = self.work / f"stage-{name}"
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "--archive", str(root), str(target)], check=True)
        return target

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
        ValueError: A line that cannot be executed here.
        subprocess.CalledProcessError: A RUN failed.
    """
    stages: list[Stage] = []
    files = list(context(folder))
    for line in parse(dockerfile.read_text()):
        print(f"{line.word} {line.text[:110]}", flush=True)
        if line.word == "FROM":
            base, _, name = line.text.partition(" AS ")
            name = name.strip() or str(len(stages))
            stages.append(Stage(base.strip(), name, machine.copy_of(machine.base(base.strip()), name)))
            stages[-1].sizes.append((f"{line.word} {base.strip()}", size(stages[-1].root)))
            continue
        stage = stages[-1]
        before = size(stage.root) if line.word in ("COPY", "RUN") else 0
        if line.word == "ARG":
            made = assignments(line.text, stage.environment)
            stage.arguments |= {k: arguments.get(k, v) for k, v in made.items()}
        elif line.word == "ENV":
            stage.environment |= assignments(line.text, {**stage.arguments, **stage.environment})
        elif line.word == "WORKDIR":
            stage.folder = line.text
            (stage.root / line.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif line.word == "USER":
            stage.user = line.text
        elif line.word == "COPY":
            *sources, target = line.text.split()
            place = stage.root / str(Path(stage.folder) / target).lstrip("/")
            if sources[0].startswith("--from="):
                (other,) = (s for s in stages if s.name == sources[0].removeprefix("--from="))
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--archive", str(other.root / sources[1].lstrip("/")), str(place)], check=True)
            else:
                copy_in(files, sources, folder, place, target.endswith("/"))
        elif line.word == "RUN":
            machine.run(stage, line.text)
        elif line.word == "HEALTHCHECK":
            stage.health = json.loads(line.text.partition("CMD ")[2])
        elif line.word == "CMD":
            stage.command = json.loads(line.text)
        if before:
            stage.sizes.append((f"{line.word} {line.text}", size(stage.root) - before))
    return stages[-1]


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


def report(dockerfile: Path, stage: Stage, seconds: float | None) -> str:
    """What was measured, as Markdown."""
    whole = size(stage.root)
    rows = [f"| `{text if len(text) < 70 else text[:67] + '...'}` | {grown / 1e6:.1f} |" for text, grown in stage.sizes]
    lines = [
        f"Written by `python deploy/run_lines.py {dockerfile.name}` on {datetime.now(UTC):%Y-%m-%d}, which executes the "
        f"Dockerfile's lines without a container engine: in fresh roots of Debian bookworm, whose Python 3.11 takes the "
        f"place of {stage.base}. Sizes are those of the files, before any compression.",
        "",
        "| line of the last stage | MB |", "| --- | --- |", *rows,
        f"| **the image's files**, of at most {LIMIT / 1e6:.0f} | **{whole / 1e6:.0f}** |", "",
    ]  # fmt: skip
    if seconds is not None:
        lines += [
            f"CMD as user {stage.user} on a read-only root with a tmpfs on /tmp: HEALTHCHECK succeeded {seconds:.1f} s "
            f"after the start, on {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores at a load of "
            f"{os.getloadavg()[0]:.1f} (a load above the cores means that other work shared them).",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Execute, start, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--context", type=Path, default=ROOT)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, help="path of this machine that RUN lines see too")
    parser.add_argument("--work", type=Path, help="keep the roots here; a folder that is removed by default")
    parser.add_argument("--write", type=Path, help="also write the result into this file")
    parser.add_argument("--no-start", action="store_true", help="do not start CMD")
    parser.add_argument("--wait", type=float, default=300, help="seconds that HEALTHCHECK may take")
    given = parser.parse_args()
    missing = [tool for tool in ("debootstrap", "unshare", "setpriv", "chroot") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        sys.exit(f"This needs root{''.join(' and ' + tool for tool in missing)}.")
    with tempfile.TemporaryDirectory(prefix="run-lines-") as name:
        machine = Machine(given.work or Path(name), given.bind)
        machine.work.mkdir(parents=True, exist_ok=True)
        arguments = dict(pair.split("=", 1) for pair in given.build_arg)
        stage = execute(given.dockerfile, given.context, machine, arguments)
        seconds = None
        if not given.no_start:
            seconds = healthy(machine, stage, given.wait)
        told = report(given.dockerfile, stage, seconds)
        print(told)
        if given.write:
            given.write.write_text(f"# The container, as checked\n\n{told}")
        if size(stage.root) > LIMIT:
            sys.exit(f"The image is larger than {LIMIT / 1e9} GB.")


if __name__ == "__main__":
    main()
