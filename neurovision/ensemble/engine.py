"""How the networks are run. One interface, one place that chooses."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurovision.classes import CLASSES
from neurovision.ensemble.weights import Manifest, MemberEntry
from neurovision.errors import ModelError, WeightsTampered

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

ENGINES = ("auto", "openvino", "keras", "reference")
CHUNK = 4  # canvases of one request where there are many
GRAPH, CONSTANTS, DESCRIPTION = "members.xml", "members.bin", "members.json"  # of a converted set


class Engine(Protocol):
    """Runs all members on batches of canvases."""

    device: str

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """Softmax of every member.

        Args:
            canvases: float32 ``(N, size, size)``, standardized.

        Returns:
            float32 ``(M, N, size, size, 5)``, members in the manifest's order.
        """


def load_engine(manifest: Manifest, choice: str = "auto") -> Engine:
    """Choose and load an engine: ``auto`` is Keras on a GPU and OpenVINO on a CPU, or Keras where that fails.

    Args:
        manifest: The weights.
        choice: One of ENGINES.

    Raises:
        ModelError: An unknown choice, or OpenVINO was asked for by name and cannot run.
        WeightsError: Files that are missing or not the shipped ones.
    """
    if choice not in ENGINES:
        raise ModelError(f"An engine is one of {', '.join(ENGINES)}; received {choice!r}.")
    if choice == "reference":
        return ReferenceEngine(manifest)
    if choice == "keras" or (choice == "auto" and _has_gpu()):
        return KerasEngine(manifest)
    try:
        return OpenVinoEngine(manifest)
    except ModelError as e:
        if choice == "openvino":
            raise
        log.warning("%s Keras runs the networks instead, more slowly.", e)
        return KerasEngine(manifest)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    """Whether Keras computes on a GPU; it is only asked, and so only imported, where a driver is installed."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and shutil.which("nvidia-smi") is not None and device() == "GPU"


def load_member(entry: MemberEntry, manifest: Manifest) -> keras.Model:
    """Build one member and fill in its shipped weights.

    Raises:
        WeightsTampered: The digest is wrong, or the file does not fit the architecture.
    """
    from neurovision.segmenters import build

    model = build(entry.name, (manifest.size, manifest.size, 1), **entry.config)
    fill(model, manifest.path(entry.file, entry.sha256))
    return model


def variable_key(variable: Any) -> str:
    """Name of a Keras variable in a weights file: its path, without the counter that Keras gives to unnamed layers.

    ``keras.applications`` leaves its normalization layer unnamed, so that its name depends on what was built before.
    """
    return re.sub(r"normalization_\d+/", "normalization/", variable.path)


def fill(model: keras.Model, path: Path) -> None:
    """Assign every variable of ``model`` from a safetensors file keyed by variable path.

    Raises:
        WeightsTampered: A variable is missing, superfluous or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes())
    except SafetensorError as e:
        raise WeightsTampered(f"{path.name} is not a safetensors file; fetch it again.") from e
    variables = {variable_key(v): v for v in model.variables if v.dtype.startswith("float")}
    if set(variables) != set(tensors) or any(tuple(v.shape) != tensors[k].shape for k, v in variables.items()):
        raise WeightsTampered(f"{path.name} does not fit the architecture {model.name}; fetch it again.")
    for key, variable in variables.items():
        variable.assign(tensors[key].astype(np.float32))
    for layer in model._flatten_layers():
        if layer.__class__.__name__ == "Normalization" and layer.built:
            layer.finalize_state()  # it caches its weights at build time


class OpenVinoEngine:
    """All members in one OpenVINO graph on the CPU, converted once and kept on disk.

    A single canvas has every core to itself; many canvases go CHUNK at a time through two requests that share the
    cores, which wait for each other less. TensorFlow and Keras are not imported.

    Raises:
        ModelError: OpenVINO is not installed, cannot convert the members or cannot run here.
        WeightsError: Members' files that are missing or not the shipped ones.
    """

    device = "CPU"

    def __init__(self, manifest: Manifest) -> None:
        for member in manifest.members:
            manifest.path(member.file, member.sha256)
        self._shape = (manifest.size, manifest.size)
        self._members = len(manifest.members)
        self._lock = threading.Lock()  # requests hold their own input and output
        self._many: Any = None
        try:
            import openvino as ov

            self._core = ov.Core()
            bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            graph, constants, self.precision = _converted(manifest, bf16)
            self._model = self._core.read_model(graph, ov.Tensor(np.frombuffer(constants, np.uint8)))
            self._one = self._compile(1, 1).create_infer_request()
        except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as e:
            raise ModelError(f"OpenVINO cannot run the networks here ({type(e).__name__}).") from e

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`; the result is a view of planes, ``(N, M, 5, size, size)`` in memory."""
        count = len(canvases)
        out = np.empty((count, self._members * len(CLASSES), *self._shape), np.float32)
        inputs = np.ascontiguousarray(canvases, np.float32)[..., None]
        chunked = count - count % CHUNK
        with self._lock:
            if chunked:
                self._predict_many(inputs[:chunked], out)
            for k in range(chunked, count):
                self._one.infer(inputs[k : k + 1], share_inputs=True)
                out[k] = self._one.get_output_tensor().data[0]
        planes = out.reshape(count, self._members, len(CLASSES), *self._shape)
        return planes.transpose(1, 0, 3, 4, 2)

    def _predict_many(self, inputs: np.ndarray, out: np.ndarray) -> None:
        import openvino as ov

        if self._many is None:
            self._many = ov.AsyncInferQueue(self._compile(CHUNK, min(2, cores())))
            self._many.set_callback(lambda request, job: np.copyto(job, request.get_output_tensor().data))
        for first in range(0, len(inputs), CHUNK):
            part = slice(first, first + CHUNK)
            self._many.start_async({0: inputs[part]}, out[part], share_inputs=True)
        self._many.wait_all()

    def _compile(self, batch: int, streams: int) -> Any:
        model = self._model.clone()
        model.reshape([batch, *self._shape, 1])
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": streams
        }  # fmt: skip
        return self._core.compile_model(model, "CPU", settings)


def _converted(manifest: Manifest, bf16: bool) -> tuple[bytes, bytes, str]:
    """The converted members: graph, constants and the precision to run in, from the cache or made now.

    A cached set is used only if its bytes are the ones that its description names; anything else is made anew. It
    appears under its name in one step, so that no other process ever sees half of it.
    """
    key = _key(manifest, bf16)
    places = [parent / key for parent in _cache_parents(manifest)]
    for place in places:
        if (found := _read_converted(place)) is not None:
            return found
    log.info("Converting the networks for this machine, once.")
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{key}-"))
        except OSError:  # read-only
            continue
        try:
            made = _convert(manifest, work)
            work.chmod(0o755)
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
        except OSError:  # another process was first
            log.info("The converted networks were not kept.")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return made
    with tempfile.TemporaryDirectory(prefix="neurovision-") as folder:
        return _convert(manifest, Path(folder))


def _key(manifest: Manifest, bf16: bool) -> str:
    """Name of a converted set: the weights, whatever converts them, and whether the processor has bfloat16."""
    versions = []
    for package in ("openvino", "keras", "tensorflow", "tensorflow-cpu"):
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    code = Path(__file__).with_name("convert.py").read_bytes()
    return hashlib.sha256(json.dumps([manifest.digest, versions, bf16]).encode() + code).hexdigest()[:16]


def _cache_parents(manifest: Manifest) -> Iterator[Path]:
    """Where converted networks may be kept: beside the weights, else in the user's own cache."""
    yield manifest.folder / "cache"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield base / "neurovision"


def _read_converted(folder: Path) -> tuple[bytes, bytes, str] | None:
    """A converted set, or None where it is absent or its bytes are not the described ones."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        graph, constants = (folder / GRAPH).read_bytes(), (folder / CONSTANTS).read_bytes()
        digests = [hashlib.sha256(part).hexdigest() for part in (graph, constants)]
        if digests == [described[GRAPH], described[CONSTANTS]] and described["precision"] in ("f32", "bf16"):
            return graph, constants, described["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _convert(manifest: Manifest, folder: Path) -> tuple[bytes, bytes, str]:
    """Convert in a process of its own.

    Raises:
        ModelError: It failed.
    """
    package = str(Path(__file__).parents[2])
    environment = {
        **os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    command = [sys.executable, "-m", "neurovision.ensemble.convert", str(manifest.folder.resolve()), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = _read_converted(folder) if done.returncode == 0 else None
    if found is None:
        log.debug("converting ended with %d: %s", done.returncode, done.stderr[-2000:])
        raise ModelError("OpenVINO could not convert the networks.")
    return found


class KerasEngine:
    """All members in one compiled Keras graph."""

    def __init__(self, manifest: Manifest) -> None:
        import keras

        members = [load_member(m, manifest) for m in manifest.members]
        inputs = keras.Input((manifest.size, manifest.size, 1), name="canvas")
        self._graph = keras.Model(inputs, [m(inputs) for m in members], name="members")
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        outputs = self._graph.predict_on_batch(canvases[..., None])
        members = outputs if isinstance(outputs, list) else [outputs]  # Keras unwraps a single output
        return np.stack([np.asarray(p, np.float32) for p in members])


class ReferenceEngine:
    """Member after member, eagerly in float32: slow and plain, what the other engines are compared with."""

    def __init__(self, manifest: Manifest) -> None:
        self._members = [load_member(m, manifest) for m in manifest.members]
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        import keras

        return np.stack(
            [keras.ops.convert_to_numpy(m(canvases[..., None].astype(np.float32), training=False)) for m in self._members]
        )


def device() -> str:
    """``"GPU"`` or ``"CPU"``, whichever Keras computes on."""
    import keras

    return "GPU" if any("gpu" in d.lower() or "cuda" in d.lower() for d in keras.distribution.list_devices()) else "CPU"
