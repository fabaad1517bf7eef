"""The reference network in Keras 3, built from its description with Keras layers alone.

Tests compare the conversion of weights with it, and the benchmark compares its speed.
"""

import importlib.util
import math
import os


# Keras reads this when it is imported, and would want TensorFlow. PyTorch is here in any case.
os.environ.setdefault("KERAS_BACKEND", "tensorflow" if importlib.util.find_spec("tensorflow") else "torch")

import keras
import numpy as np
from keras import layers, ops


def embed(noise_variances):
    """Embeds noise powers (B, 1, 1, 1) in sines and cosines (B, 1, 1, 32)."""
    frequencies = ops.exp(ops.linspace(math.log(1.0), math.log(1000.0), 16))
    angles = 2.0 * math.pi * frequencies * noise_variances
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=3)


def residual_block(x, width):
    residual = x if x.shape[3] == width else layers.Conv2D(width, kernel_size=1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same", activation="swish")(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same")(x)
    return layers.Add()([x, residual])


def build_network(image_size=64, widths=(32, 64, 96, 128), depth=2, channels=3, embedding_as_input=False):
    """Builds the U-Net from noisy images (B, H, W, C) and noise powers (B, 1, 1, 1) to predicted noise."""
    noisy_images = keras.Input((image_size, image_size, channels))
    if embedding_as_input:
        noise_input = keras.Input((1, 1, 32))
        embedding = noise_input
    else:
        noise_input = keras.Input((1, 1, 1))
        embedding = layers.Lambda(embed, output_shape=(1, 1, 32))(noise_input)
    embedding = layers.UpSampling2D(size=image_size, interpolation="nearest")(embedding)
    x = layers.Conv2D(widths[0], kernel_size=1)(noisy_images)
    x = layers.Concatenate()([x, embedding])

    skips = []
    for width in widths[:-1]:
        for _ in range(depth):
            x = residual_block(x, width)
            skips.append(x)
        x = layers.AveragePooling2D(pool_size=2)(x)
    for _ in range(depth):
        x = residual_block(x, widths[-1])
    for width in reversed(widths[:-1]):
        x = layers.UpSampling2D(size=2, interpolation="bilinear")(x)
        for _ in range(depth):
            x = layers.Concatenate()([x, skips.pop()])
            x = residual_block(x, width)
    x = layers.Conv2D(channels, kernel_size=1, kernel_initializer="zeros")(x)
    return keras.Model([noisy_images, noise_input], x, name="residual_unet")


def randomize(network, seed=0):
    """Draws random weights and BatchNorm statistics with which |prediction| is about 1."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            mean, variance = layer.get_weights()
            layer.set_weights([rng.normal(0, 0.3, mean.shape), rng.uniform(0.5, 1.5, variance.shape)])
        elif isinstance(layer, layers.Conv2D):
            kernel, bias = layer.get_weights()
            fan_in = math.prod(kernel.shape[:3])
            layer.set_weights([rng.normal(0, fan_in**-0.5, kernel.shape), rng.normal(0, 0.1, bias.shape)])
