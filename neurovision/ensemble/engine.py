"""How the networks are run. One interface, one place that chooses."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurovision.ensemble.cache import kept, versions
from neurovision.ensemble.manifest import Network, Networks
from neurovision.ensemble.precision import precision_here
from neurovision.errors import ModelError, WeightsTampered
from neurovision.machine import accelerator, cores

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

ENGINES = ("auto", "openvino", "keras", "reference")
GRAPH, CONSTANTS = "members.xml", "members.bin"  # of a converted set
CLASSIFIER_GRAPH, CLASSIFIER_CONSTANTS = "classifier.xml", "classifier.bin"


class Engine(Protocol):
    """Runs all members on batches of canvases."""

    device: str

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """Softmax of every member.

        Args:
            canvases: float32 ``(N, size, size)``, standardized.

        Returns:
            float32 ``(M, N, size, size, K)``, members in the manifest's order.
        """

    def classify(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the set's classifier says of whole slices; only where the manifest has one.

        Args:
            canvases: float32 ``(N, size, size)``, standardized.

        Returns:
            Probabilities of its answers, float32 ``(N, K)``: no tumor, each type, not a brain MRI; and the pooled
            features ``(N, F)`` behind them.
        """


def load_engine(manifest: Networks, choice: str = "auto") -> Engine:
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
    if choice == "keras" or (choice == "auto" and has_gpu()):
        return KerasEngine(manifest)
    try:
        return OpenVinoEngine(manifest)
    except ModelError as e:
        if choice == "openvino":
            raise
        log.warning("%s Keras runs the networks instead, more slowly.", e)
        return KerasEngine(manifest)


def openvino() -> Any:
    """OpenVINO, whose names type checkers do not see, and without its telemetry.

    The first import of OpenVINO and every conversion send an event to a web analytics service, consent or not, unless
    the package that sends it cannot be imported, and OpenVINO runs without it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None refuses the import
    return importlib.import_module("openvino")


def has_gpu() -> bool:
    """Whether Keras computes on a GPU; it is only asked, and so only imported, where a driver is installed."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and shutil.which("nvidia-smi") is not None and device() == "GPU"


def load_member(entry: Network, manifest: Networks) -> keras.Model:
    """Build one member and fill in its shipped weights.

    Raises:
        WeightsTampered: The digest is wrong, or the file does not fit the architecture.
    """
    from neurovision.segmenters import build

    model = build(entry.name, (manifest.size, manifest.size, 1), **entry.config)
    fill(model, manifest.folder / entry.file, manifest.read(entry))
    return model


def load_classifier(manifest: Networks) -> keras.Model:
    """Build the set's classifier with its shipped weights; outputs as of :meth:`Engine.classify`.

    Raises:
        ModelError: The set has none.
        WeightsTampered: The digest is wrong, or the file does not fit the architecture.
    """
    import keras

    from neurovision.classifiers import build

    entry = manifest.classifier
    if entry is None:
        raise ModelError("This set of weights has no classifier; stack one with the members.")
    model = build(entry.name, (manifest.size, manifest.size, 1), **entry.config)
    fill(model, manifest.folder / entry.file, manifest.read(entry))
    return keras.Model(model.input, [model.output, model.get_layer("pool").output])


def variable_key(variable: Any) -> str:
    """Name of a Keras variable in a weights file: its path, without the counter that Keras gives to unnamed layers.

    ``keras.applications`` leaves its normalization layer unnamed, so that its name depends on what was built before.
    """
    return re.sub(r"normalization_\d+/", "normalization/", variable.path)


def fill(model: keras.Model, path: Path, data: bytes | None = None) -> None:
    """Assign every variable of ``model`` from a safetensors file keyed by variable path.

    Args:
        model: Built already.
        path: The file.
        data: Its bytes, where they were read and checked before.

    Raises:
        WeightsTampered: A variable is missing, superfluous or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes() if data is None else data)
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

    Several canvases go through two requests that share the cores, which wait for each other less; a single one has every
    core to itself. What several need is compiled when they first come. TensorFlow and Keras are not imported.

    Args:
        manifest: The weights.
        precision: ``"f32"`` or ``"bf16"``; by default what :func:`precision_here` finds for this processor.

    Raises:
        ModelError: OpenVINO is not installed, cannot convert the members or cannot run here.
        WeightsError: Members' files that are missing or not the shipped ones.
    """

    device = "CPU"

    def __init__(self, manifest: Networks, precision: str | None = None) -> None:
        for entry in manifest.networks:
            manifest.read(entry)
        self._shape = (manifest.size, manifest.size)
        self._members, self._classes = len(manifest.members), len(manifest.classes)
        self._lock = threading.Lock()  # requests hold their own input and output
        self._two: Any = None
        try:
            ov = openvino()
            self._core = ov.Core()
            files = _converted(manifest)
            self._model = self._core.read_model(files[GRAPH], ov.Tensor(np.frombuffer(files[CONSTANTS], np.uint8)))
            self.precision = precision or precision_here(self._core, self._model, manifest, files)
            self._one = self._compile(1).create_infer_request()
            self._classifier: Any = None
            if manifest.classifier is not None:
                tensor = ov.Tensor(np.frombuffer(files[CLASSIFIER_CONSTANTS], np.uint8))
                whole = self._core.read_model(files[CLASSIFIER_GRAPH], tensor)
                self._classifier = self._compile(1, whole).create_infer_request()
        except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as e:
            raise ModelError(f"OpenVINO cannot run the networks here ({type(e).__name__}).") from e

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`; the result is a view of planes, ``(N, M, K, size, size)`` in memory."""
        count = len(canvases)
        out = np.empty((count, self._members * self._classes, *self._shape), np.float32)
        inputs = np.ascontiguousarray(canvases, np.float32)[..., None]
        with self._lock:
            if count == 1:
                self._one.infer(inputs, share_inputs=True)
                out[:] = self._one.get_output_tensor().data
            else:
                self._predict_several(inputs, out)
        planes = out.reshape(count, self._members, self._classes, *self._shape)
        return planes.transpose(1, 0, 3, 4, 2)

    def _predict_several(self, inputs: np.ndarray, out: np.ndarray) -> None:
        if self._two is None:
            self._two = openvino().AsyncInferQueue(self._compile(min(2, cores())))
            self._two.set_callback(lambda request, job: np.copyto(job, request.get_output_tensor().data))
        for k in range(len(inputs)):
            self._two.start_async({0: inputs[k : k + 1]}, out[k : k + 1], share_inputs=True)
        self._two.wait_all()

    def classify(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Engine`."""
        if self._classifier is None:
            raise ModelError("This set of weights has no classifier; stack one with the members.")
        found = []
        with self._lock:
            for canvas in np.ascontiguousarray(canvases, np.float32):
                self._classifier.infer(canvas[None, ..., None], share_inputs=True)
                found.append([self._classifier.get_output_tensor(k).data[0].copy() for k in (0, 1)])
        answers, features = (np.stack(part) for part in zip(*found, strict=True))
        return answers, features

    def compile_member(self, index: int) -> Any:
        """One member by itself for one canvas, to be timed."""
        planes = self._model.get_results()[0].input_value(0).get_node()
        part = openvino().Model([planes.input_value(index)], self._model.get_parameters(), "member")
        return self._compile(1, part)

    def _compile(self, streams: int, model: Any = None) -> Any:
        model = (model or self._model).clone()
        model.reshape([1, *self._shape, 1])
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": streams
        }  # fmt: skip
        return self._core.compile_model(model, "CPU", settings)


def _converted(manifest: Networks) -> dict[str, bytes]:
    """The members as an OpenVINO graph and its constants, for any processor; made in a process of its own.

    Raises:
        ModelError: It cannot be made.
    """
    package = Path(__file__).parents[2]
    drawn_by = [f"{name}.py" for name in ("_blocks", "_encoders", *(m.name for m in manifest.members))]
    files = [Path(__file__).with_name("convert.py"), *(package / "neurovision" / "segmenters" / f for f in drawn_by)]
    names = [GRAPH, CONSTANTS]
    if manifest.classifier is not None:
        files += [package / "neurovision" / "classifiers" / f for f in ("_blocks.py", f"{manifest.classifier.name}.py")]
        names += [CLASSIFIER_GRAPH, CLASSIFIER_CONSTANTS]
    code = "".join(f.read_text() for f in files)
    members = [f"{m.name} {m.sha256} {m.config}" for m in manifest.networks]
    made_with = versions("openvino", "keras", "tensorflow", "tensorflow-cpu")
    facts = [str(manifest.size), *members, code, *made_with]

    def make(folder: Path) -> None:
        log.info("Preparing the networks for this machine; this is done once and takes a minute or more ...")
        environment = {
            **os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
        }  # fmt: skip
        command = [sys.executable, "-m", "neurovision.ensemble.convert", str(manifest.folder.resolve()), str(folder)]
        described = json.dumps(manifest.to_json())  # not read again from the folder, where it may have changed
        done = subprocess.run(command, input=described, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            log.debug("converting ended with %d: %s", done.returncode, done.stderr[-2000:])
            raise ModelError("OpenVINO could not convert the networks.")

    return kept(manifest.folder, facts, names, make)


class KerasEngine:
    """All members in one compiled Keras graph."""

    def __init__(self, manifest: Networks) -> None:
        import keras

        members = [load_member(m, manifest) for m in manifest.members]
        inputs = keras.Input((manifest.size, manifest.size, 1), name="canvas")
        self._graph = keras.Model(inputs, [m(inputs) for m in members], name="members")
        self._classifier = None if manifest.classifier is None else load_classifier(manifest)
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        outputs = self._graph.predict_on_batch(canvases[..., None])
        members = outputs if isinstance(outputs, list) else [outputs]  # Keras unwraps a single output
        return np.stack([np.asarray(p, np.float32) for p in members])

    def classify(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Engine`."""
        return _classify(self._classifier, canvases)


class ReferenceEngine:
    """Member after member, eagerly in float32: slow and plain, what the other engines are compared with."""

    def __init__(self, manifest: Networks) -> None:
        self.members = tuple(load_member(m, manifest) for m in manifest.members)
        self.classifier = None if manifest.classifier is None else load_classifier(manifest)
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        import keras

        return np.stack(
            [keras.ops.convert_to_numpy(m(canvases[..., None].astype(np.float32), training=False)) for m in self.members]
        )

    def classify(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Engine`."""
        return _classify(self.classifier, canvases)


def _classify(classifier: keras.Model | None, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if classifier is None:
        raise ModelError("This set of weights has no classifier; stack one with the members.")
    answers, features = (np.asarray(part, np.float32) for part in classifier.predict_on_batch(canvases[..., None]))
    return answers, features


def device() -> str:
    """``"GPU"`` or ``"CPU"``, whichever Keras computes on."""
    return "GPU" if accelerator() else "CPU"
