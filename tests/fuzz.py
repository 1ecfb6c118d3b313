"""Coverage-guided fuzzing of the readers: ``python -m tests.fuzz dicom --seconds 600``.

Needs atheris (Linux, the ``dev`` extra). The counts go into docs/reliability.md unless ``--keep-docs`` is given.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
READERS = ("images", "dicom", "nifti", "masks")
MEGABYTES = 4096  # of the whole process, the instrumented libraries and the seeds included
SLOWEST = 10


def target(reader: str) -> None:
    """Be the fuzzer: libFuzzer calls the reader with its mutations until time is up or something breaks."""
    import atheris

    # Where arrays are compared, atheris' hook of comparisons keeps every result for good: kilobytes a file.
    arrays = ["neurovision.scan.intensity", "nibabel.orientations"]
    included = ["neurovision.scan", "pydicom", "nibabel", "PIL", "tifffile"]
    with atheris.instrument_imports(include=included, exclude=arrays, enable_loader_override=False):
        import nibabel.nifti2
        import nibabel.orientations  # noqa: F401 - to be instrumented

        from neurovision.errors import ScanError
        from neurovision.scan import dicom, images, masks, nifti

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"

        def once(data: bytes) -> None:
            try:
                if reader == "images":
                    images.read_image(data, "x")
                elif reader == "dicom":
                    dicom.read_dicom(data, "x")
                elif reader == "nifti":
                    nifti.read_nifti(data, "x")
                else:
                    path.write_bytes(data)
                    masks.read_mask(path, (64, 64))
            except ScanError as e:
                said = str(e)
                if "\n" in said or len(said) > 400:
                    raise ValueError(f"no good sentence: {said!r}") from e

        atheris.Setup([sys.argv[0], *sys.argv[3:]], once)
        atheris.Fuzz()


def fuzz(reader: str, seconds: int) -> dict[str, str]:
    """Fuzz one reader in a process of its own.

    Returns:
        ``seconds, executions, crashes, slowest, memory, coverage`` and ``log``, the end of libFuzzer's own words.
    """
    from tests import hostile

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for part in ("seeds", "found", "broken"):
            (folder / part).mkdir()
        seeds = [h.data for h in hostile.corpus() if h.reader == reader and 0 < len(h.data) < 60_000]
        sound = {"dicom": [hostile.dicom()], "nifti": [hostile.nifti()], "images": [], "masks": []}[reader]
        for k, data in enumerate([*sound, *seeds]):
            (folder / "seeds" / f"{k:04d}").write_bytes(data)
        # libFuzzer holds the peak that Linux reports against its limit, and a program inherits it from the process that
        # starts it: a shell in between keeps what the tests before used up out of it.
        command = [
            "/bin/sh", "-c", '"$@"; exit $?', "fuzz", sys.executable, "-m", "tests.fuzz",
            "target", reader, str(folder / "found"), str(folder / "seeds"),
            f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={SLOWEST}", "-print_final_stats=1",
            f"-artifact_prefix={folder / 'broken'}/", "-max_len=100000", "-verbosity=1",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, text=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False, errors="replace",
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        broken = sorted((folder / "broken").iterdir())
        kept = Path(tempfile.gettempdir()) / f"fuzz-{reader}-broken"
        for artifact in broken:  # to be looked at; they are mutated phantoms
            kept.mkdir(exist_ok=True)
            (kept / artifact.name).write_bytes(artifact.read_bytes())

    def stat(pattern: str, default: str = "0") -> str:
        found = re.findall(pattern, done.stdout)
        return found[-1] if found else default

    return {
        "seconds": stat(r"Done \d+ runs in (\d+) second", "stopped early"),
        "executions": stat(r"number_of_executed_units:\s+(\d+)"),
        "crashes": str(len([b for b in broken if not b.name.startswith("slow-unit")])),
        "slowest": stat(r"slowest_unit_time_sec:\s+(\d+)"),
        "memory": stat(r"peak_rss_mb:\s+(\d+)"),
        "coverage": stat(r"cov: (\d+)"),
        "log": done.stdout[-3000:],
    }


def main() -> None:
    """Parse the arguments, fuzz, record."""
    if len(sys.argv) > 2 and sys.argv[1] == "target":
        target(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="+", choices=READERS)
    parser.add_argument("--seconds", type=int, default=600, help="for each reader")
    parser.add_argument("--keep-docs", action="store_true", help="do not write docs/reliability.md")
    given = parser.parse_args()
    from tests.reliability import machine, record, table

    failed = False
    for reader in given.readers:
        told = fuzz(reader, given.seconds)
        failed |= told["crashes"] != "0" or told["executions"] == "0"
        print({k: v for k, v in told.items() if k != "log"})
        if failed:
            print(told["log"])
        if not given.keep_docs:
            columns = ["executions", "edges covered", "crashes, hangs", "slowest", "peak memory with the fuzzer's own"]
            row = [told["executions"], told["coverage"], told["crashes"], f"{told['slowest']} s", f"{told['memory']} MB"]
            words = f"`python -m tests.fuzz {reader} --seconds {given.seconds}`: ran {told['seconds']} seconds; {machine()}."
            record(f"fuzz-{reader}", [words, "", *table(columns, [row])])
    sys.exit(failed)


if __name__ == "__main__":
    main()
