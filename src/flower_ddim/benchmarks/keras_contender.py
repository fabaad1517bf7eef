"""The contender in Keras 3 on TensorFlow. It trains and samples like the Keras example of DDIM, every step a graph."""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras reads this when it is imported

import keras
import tensorflow as tf

from ..conversion.keras_reference import build_network
from .contenders import Contender, Job


START_ANGLE, END_ANGLE = math.acos(0.95), math.acos(0.02)


class KerasReference:
    """The reference network. It predicts noise, with mean absolute error, AdamW and an averaged network."""

    def __init__(self, contender: Contender, job: Job):
        self.job = job
        keras.utils.set_random_seed(0)
        self.network = self._network()

    def _network(self) -> keras.Model:
        job = self.job
        return build_network(job.sample_size, tuple(job.block_out_channels), job.layers_per_block)

    def train(self) -> Callable[[], None]:
        network, averaged, job = self.network, self._network(), self.job
        averaged.set_weights(network.get_weights())
        optimizer = keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4)
        optimizer.build(network.trainable_weights)
        shape = (job.batch_size, job.sample_size, job.sample_size, 3)
        images = tf.constant(np.random.default_rng(0).standard_normal(shape, np.float32))

        @tf.function
        def step():
            noise = tf.random.normal(shape)
            angles = START_ANGLE + tf.random.uniform((shape[0], 1, 1, 1)) * (END_ANGLE - START_ANGLE)
            noisy_images = tf.cos(angles) * images + tf.sin(angles) * noise
            with tf.GradientTape() as tape:
                predicted = network([noisy_images, tf.sin(angles) ** 2], training=True)
                loss = tf.reduce_mean(tf.abs(noise - predicted))
            gradients = tape.gradient(loss, network.trainable_weights)
            optimizer.apply_gradients(zip(gradients, network.trainable_weights, strict=True))
            for average, weight in zip(averaged.weights, network.weights, strict=True):
                average.assign(0.999 * average + 0.001 * weight)
            return loss

        def turn():
            loss = step().numpy()
            if not np.isfinite(loss):
                raise ValueError(f"The loss has become {loss}: what was measured is no training.")

        return turn

    def generate(self) -> Callable[[], None]:
        network, job = self.network, self.job
        shape = (job.batch_size, job.sample_size, job.sample_size, 3)

        @tf.function
        def denoise(noisy_images, angle, next_angle):
            power = tf.fill((shape[0], 1, 1, 1), tf.sin(angle) ** 2)
            noise = network([noisy_images, power], training=False)
            images = (noisy_images - tf.sin(angle) * noise) / tf.cos(angle)
            return images, tf.cos(next_angle) * images + tf.sin(next_angle) * noise

        def turn():
            noisy_images = tf.random.normal(shape)
            angles = tf.linspace(END_ANGLE, START_ANGLE, job.num_inference_steps + 1)
            for angle, next_angle in zip(angles[:-1], angles[1:], strict=True):
                images, noisy_images = denoise(
                    noisy_images, tf.cast(angle, tf.float32), tf.cast(next_angle, tf.float32)
                )
            self.pictures = np.uint8(255 * tf.clip_by_value(0.5 + 0.5 * images, 0, 1).numpy())

        return turn

    def save(self, folder: str):
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.network.save_weights(f"{folder}/model.weights.h5")

    def first_picture(self, folder: str):
        self.network.load_weights(f"{folder}/model.weights.h5")
        self.generate()()
        with tempfile.TemporaryDirectory() as output:
            png = tf.io.encode_png(self.pictures[0])
            tf.io.write_file(f"{output}/first.png", png)

    def facts(self) -> dict:
        parameters = sum(math.prod(weight.shape) for weight in self.network.trainable_weights)
        convolutions = [layer for layer in self.network.layers if isinstance(layer, keras.layers.Conv2D)]
        # One multiplication and one addition for every number of the kernel at every pixel.
        operations = sum(
            2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3]) for layer in convolutions
        )
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        return {"parameters": parameters, "gflop_per_image": operations / 1e9, "versions": versions}
