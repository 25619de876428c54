"""The published model and step in Keras 2 on TensorFlow, as a process.

Written from the published facts: layer by layer, one `train_on_batch` for the discriminator on
real and generated images together, one for the generator through the frozen discriminator. Runs
in the environment that `make peers` makes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks.peers.worker import Settings, Step, serve

layers = keras.layers
NORMAL = keras.initializers.RandomNormal(stddev=0.02)
LOSSES = ["binary_crossentropy", "sparse_categorical_crossentropy"]


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def generator(settings: Settings) -> Any:
    """Latents [100] and labels [1] → images [H, W, 3] in [-1, 1]."""
    side = settings.size // 16
    first, *rest = (_scaled(c, settings.width) for c in (1024, 512, 256, 128))
    latents, labels = layers.Input(100), layers.Input(1)
    x = layers.Dense(side * side * first, kernel_initializer=NORMAL, activation="relu")(latents)
    x = layers.Reshape((side, side, first))(x)
    y = layers.Dense(side * side, kernel_initializer=NORMAL)(layers.Embedding(3, 100)(labels))
    x = layers.Concatenate()([x, layers.Reshape((side, side, 1))(y)])
    up = {"kernel_size": 5, "strides": 2, "padding": "same", "kernel_initializer": NORMAL}
    for channels in rest:
        x = layers.BatchNormalization(momentum=0.9)(layers.Conv2DTranspose(channels, **up)(x))
        x = layers.ReLU()(x)
    images = layers.Conv2DTranspose(3, activation="tanh", **up)(x)
    return keras.Model([latents, labels], images)


def discriminator(settings: Settings) -> Any:
    """Images [H, W, 3] → probability of being real [1], and of each class [3]."""
    images = x = layers.Input((settings.size, settings.size, 3))
    for index, channels in enumerate((32, 64, 128, 256, 512)):
        strides = 1 if index == 0 else 2
        x = layers.Conv2D(
            _scaled(channels, settings.width),
            3,
            strides=strides,
            padding="same",
            kernel_initializer=NORMAL,
        )(x)
        x = layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Dropout(0.5)(x)
    x = layers.Flatten()(x)
    source, label = layers.Dense(1, "sigmoid")(x), layers.Dense(3, "softmax")(x)
    return keras.Model(images, [source, label])


class Published:
    """Both models compiled, and the published step."""

    def __init__(self, settings: Settings) -> None:
        self.random = np.random.default_rng(0)
        self.batch = settings.batch
        self.generator, self.discriminator = generator(settings), discriminator(settings)
        self.discriminator.compile(_adam(), LOSSES)
        self.discriminator.trainable = False
        latents, labels = layers.Input(100), layers.Input(1)
        found = self.discriminator(self.generator([latents, labels]))
        self.combined = keras.Model([latents, labels], found)
        self.combined.compile(_adam(), LOSSES)
        shape = (self.batch, settings.size, settings.size, 3)
        self.images = self.random.uniform(-1, 1, shape).astype("float32")
        self.labels = self.random.integers(0, 3, (self.batch, 1))

    def step(self) -> None:
        """Update both networks once."""
        latents, labels = self._draw(self.batch)
        generated = self.generator([latents, labels], training=False).numpy()
        images = np.concatenate([self.images, generated])
        smoothing = self.random.uniform(0, 0.2, (2, self.batch, 1))
        target = np.concatenate([1 - smoothing[0], smoothing[1]])
        self.discriminator.trainable = True  # for the first call, in which Keras takes note of it
        classes = np.concatenate([self.labels, labels])
        self.discriminator.train_on_batch(images, [target, classes])
        self.discriminator.trainable = False
        latents, labels = self._draw(2 * self.batch)
        self.combined.train_on_batch([latents, labels], [np.ones((2 * self.batch, 1)), labels])

    def _draw(self, count: int) -> tuple[Any, Any]:
        latents = self.random.uniform(-1, 1, (count, 100)).astype("float32")
        return latents, self.random.integers(0, 3, (count, 1))


def _adam() -> Any:
    return keras.optimizers.Adam(2e-4, beta_1=0.5)


def _prepare(settings: Settings) -> tuple[Step, None]:
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
    return Published(settings).step, None


if __name__ == "__main__":
    serve(_prepare)
