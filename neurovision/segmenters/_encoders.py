"""Pretrained encoders from ``keras.applications``, cut at the five strides 2, 4, 8, 16 and 32."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        weights: ``"imagenet"``, or None for random ones. Those of ``efficientnetlite0`` come with the package; where
            another's cannot be fetched (no network) it starts random and a warning says so.
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
        from safetensors.numpy import load_file

        tensors = load_file(Path(__file__).parent / "imagenet" / "efficientnetlite0.safetensors")
        for layer in network.layers:
            for variable in layer.weights if not layer.name.startswith(("normalization", "rescaling")) else ():
                variable.assign(tensors[f"{layer.name}/{variable.name}"])
    return network

