"""What the training set looks like, as counts: ``python -m neurovision.evaluation.drift DATA`` writes the reference.

The page compares what it is given with these counts; they name no scan, and no value of one can be read from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurovision.ensemble.drift import REFERENCE, WITHOUT_REFERENCE, Counts, Tally
from neurovision.ensemble.pipeline import Analyzer
from neurovision.files import write
from neurovision.scan.study import Source, Study
from neurovision.training.dataset import Item, load_index


def count(analyzer: Analyzer, items: Sequence[Item]) -> Counts:
    """Analyze scans and count their figures."""
    tally = Tally()
    for item in items:
        pixels = np.ascontiguousarray(item.gray()[None, ..., None], np.float32)
        tally.note(analyzer.analyze(Study(pixels, Source(item.source, "array", sequence=item.sequence))))
    return {figure: c for figure, c in tally.counts().items() if figure not in WITHOUT_REFERENCE}


def measure(data: Path, every: int = 10, out: Path = REFERENCE) -> Counts:
    """Count the training folds' scans and write the reference.

    Args:
        data: The prepared folder.
        every: Take every n-th scan of each data set.
        out: The file to write.
    """
    analyzer = Analyzer.load()
    training = analyzer.manifest.training
    items = [i for s in training.sources for i in load_index(data, [s], training.member_folds)[::every]]
    counts = count(analyzer, items)
    about = {"scans": len(items), "folds": list(training.member_folds), "weights": analyzer.manifest.digest[:12]}
    write(out, json.dumps({**about, "counts": counts}, indent=1) + "\n")
    return counts


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
