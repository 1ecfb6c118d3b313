"""Known vulnerabilities of the pinned packages: ``python -m tests.audit``; with ``--sbom FILE`` a bill of materials too.

``--lock`` writes requirements.lock anew: what requirements.txt leads to on this machine's platform, by version and hash.
Asks the advisory index through pip-audit (the ``audit`` extra). Where the index cannot be reached, or does not know the
packages, that is said; the exit code is 1 for a vulnerability only, so that a machine without a network passes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def audit(lock: Path = LOCK) -> list[dict[str, Any]] | None:
    """What pip-audit says of every locked package, or None where it could ask nobody."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, subprocess.TimeoutExpired):
        return None
    return found


def summary(found: list[dict[str, Any]] | None) -> tuple[str, bool]:
    """One sentence, and whether something is vulnerable."""
    if found is None:
        return "The advisory index cannot be reached: nothing was audited.", False
    asked = [d for d in found if "skip_reason" not in d]
    if not asked:
        return f"The advisory index knows none of the {len(found)} packages from here: nothing was audited.", False
    bad = [f"{d['name']} {d['version']}: {', '.join(v['id'] for v in d['vulns'])}" for d in asked if d["vulns"]]
    told = f"{len(asked)} of {len(found)} packages audited, {len(bad)} with known vulnerabilities"
    return f"{told}{': ' + '; '.join(bad) if bad else ''}.", bool(bad)


def lock(requirements: Path = ROOT / "requirements.txt", out: Path = LOCK) -> int:
    """Let pip resolve without installing, and write every package with the digest of the very file that it would take.

    Returns:
        How many packages.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, "--requirement", str(requirements)], check=True, stdout=subprocess.PIPE, text=True)
    rows = {}
    for package in json.loads(done.stdout)["install"]:
        told, digest = package["metadata"], package["download_info"]["archive_info"]["hashes"]["sha256"]
        rows[told["name"].lower().replace("_", "-")] = f"{told['name']}=={told['version']} \\\n    --hash=sha256:{digest}"
    head = (
        f"# Written by `make lock` for {platform.system()} on {platform.machine()} with Python "
        f"{sys.version_info.major}.{sys.version_info.minor}; install with --require-hashes --no-deps."
    )
    out.write_text("\n".join([head, *(rows[name] for name in sorted(rows)), ""]))
    return len(rows)


def main() -> None:
    """Audit, and write the bill of materials or the lock where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="write requirements.lock and do nothing else")
    parser.add_argument("--sbom", type=Path, help="also write a CycloneDX bill of materials (JSON)")
    given = parser.parse_args()
    if given.lock:
        print(f"{lock()} packages in {LOCK.name}")
        return
    if given.sbom is not None:
        given.sbom.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCK), "--output-file", str(given.sbom)]
        subprocess.run([*command, "--output-reproducible", "--of", "JSON"], check=True, capture_output=True)
        print(f"{len(json.loads(given.sbom.read_text())['components'])} components in {given.sbom}")
    said, bad = summary(audit())
    print(said)
    sys.exit(bad)


if __name__ == "__main__":
    main()
