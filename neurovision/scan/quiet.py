"""Libraries that read files print and log what they meet, values of the file included; inside these they do not."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LIBRARIES = ("pydicom", "highdicom", "dicomanonymizer", "PIL", "tifffile")
_SILENT = logging.CRITICAL + 1
_lock = threading.RLock()  # filters of warnings, levels of loggers and standard error belong to the whole process


@contextmanager
def quiet() -> Iterator[None]:
    """What the libraries warn or log inside is dropped: it quotes values, which may be a patient's name."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in _LIBRARIES]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(_SILENT)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """As :func:`quiet`, also for libtiff, libpng and their like, which write to standard error past Python.

    What other threads write there meanwhile is lost as well.
    """
    with quiet():
        try:
            kept = os.dup(2)
        except OSError:  # a service without the stream
            yield
            return
        try:
            with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            with suppress(OSError):
                os.close(kept)
