"""Every exception that neurovision raises on purpose.

::

    NeurovisionError
    ├── ScanError             a file cannot become a Study
    │   ├── UnsupportedScan   a format, mode or geometry that no reader takes
    │   ├── DamagedScan       truncated, corrupt or empty
    │   └── ScanTooLarge      more pixels, frames or bytes than the stated limit
    ├── DataError             a training folder, index or mask breaks a rule
    ├── ModelError            an unknown model, or an argument that it cannot take
    ├── OutputError           a result cannot be written: the disk is full, or the folder is read-only
    ├── PacsError             an image archive cannot be reached, refuses, or must not be talked to like this
    ├── HubError              the Hugging Face Hub cannot be reached, refuses, or a reference to it breaks a rule
    ├── BatchError            a batch's source, folder or worker breaks a rule
    └── WeightsError          shipped weights cannot be used
        ├── WeightsMissing    a file that the manifest names is not there
        └── WeightsTampered   a file's digest is not the manifest's

A message says the rule broken, what was received and what to do, in one sentence that a user may read:
it never holds a path's folders or anything that a file says of a person.
"""


class NeurovisionError(Exception):
    """Base of all errors that neurovision raises on purpose."""


class ScanError(NeurovisionError):
    """A file cannot become a Study."""


class UnsupportedScan(ScanError):
    """A format, pixel mode or geometry that no reader takes."""


class DamagedScan(ScanError):
    """A file that is empty, truncated or corrupt."""


class ScanTooLarge(ScanError):
    """More pixels, frames or bytes than the stated limit."""


class DataError(NeurovisionError):
    """A training folder, its index or one of its masks breaks a rule."""


class ModelError(NeurovisionError):
    """An unknown model name, or an argument that the model cannot take."""


class OutputError(NeurovisionError):
    """A result cannot be written: the disk is full, or the folder is read-only."""


class PacsError(NeurovisionError):
    """An image archive cannot be reached, refuses, or must not be talked to like this."""


class ArchiveAway(PacsError):
    """An image archive cannot be reached at all: nothing is known of what was asked for."""


class HubError(NeurovisionError):
    """The Hugging Face Hub cannot be reached, refuses, or a reference to it breaks a rule."""


class BatchError(NeurovisionError):
    """A batch's source, its folder of results or one of its workers breaks a rule."""


class WeightsError(NeurovisionError):
    """Shipped weights cannot be used."""


class WeightsMissing(WeightsError):
    """A file that the manifest names is not there."""


class WeightsTampered(WeightsError):
    """A file's digest differs from the manifest's."""
