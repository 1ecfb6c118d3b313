"""Blocks that several architectures share. Every layer is named after the block it stands in.

Tensors are ``(N, H, W, C)``. There are no custom layers: a saved model needs none of this code to load.
"""

from __future__ import annotations

from typing import Any

Tensor = Any  # a keras.KerasTensor while a functional model is being drawn


def conv_bn_relu(x: Tensor, filters: int, name: str, kernel: int = 3, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolution (same padding, no bias) - batch normalization - ReLU."""
    from keras import layers

    x = layers.Conv2D(
        filters, kernel, stride, padding="same", dilation_rate=dilation, use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    x = layers.BatchNormalization(momentum=0.97, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def double_conv(x: Tensor, filters: int, name: str) -> Tensor:
    """Two times :func:`conv_bn_relu`, U-Net's unit."""
    return conv_bn_relu(conv_bn_relu(x, filters, f"{name}_1"), filters, f"{name}_2")


def attention_gate(skip: Tensor, gating: Tensor, filters: int, name: str) -> Tensor:
    """Additive attention gate of Attention U-Net (Oktay 2018, arXiv 1804.03999).

    Both inputs have the same grid here (the gating signal is already upsampled), so the paper's resampling of
    the coefficients is not needed.

    Args:
        skip: ``(N, H, W, A)`` features to be gated.
        gating: ``(N, H, W, B)`` coarser features that know where to look.
        filters: Channels of the joint space.
        name: Prefix of the layers' names.

    Returns:
        ``(N, H, W, A)``: ``skip`` times coefficients in [0, 1], one per pixel.
    """
    from keras import layers

    def project(x: Tensor, channels: int, part: str) -> Tensor:
        x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_{part}_conv")(x)
        return layers.BatchNormalization(momentum=0.97, name=f"{name}_{part}_bn")(x)

    joint = layers.Add(name=f"{name}_add")([project(skip, filters, "skip"), project(gating, filters, "gating")])
    joint = layers.ReLU(name=f"{name}_relu")(joint)
    psi = layers.Activation("sigmoid", name=f"{name}_sigmoid")(project(joint, 1, "psi"))
    return layers.Multiply(name=f"{name}_multiply")([skip, psi])


def class_head(x: Tensor, classes: int) -> Tensor:
    """1x1 convolution and softmax over classes, in float32 also under mixed precision."""
    from keras import layers

    x = layers.Conv2D(classes, 1, name="head_conv")(x)
    return layers.Softmax(dtype="float32", name="head_softmax")(x)
