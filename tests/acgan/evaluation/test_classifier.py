"""The published CNN: its shapes and counts, its training, and the numbers reported with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acgan.errors import InputError
from acgan.evaluation.classifier import (
    Classifier,
    embed,
    fit_last,
    predict,
    recompute_statistics,
    to_rgb,
)
from acgan.evaluation.fit import FitConfig

SHAPES = [
    ("Conv2d", (1, 16, 112, 112)),
    ("ReLU", (1, 16, 112, 112)),
    ("BatchNorm2d", (1, 16, 112, 112)),
    ("Conv2d", (1, 32, 112, 112)),
    ("ReLU", (1, 32, 112, 112)),
    ("MaxPool2d", (1, 32, 37, 37)),
    ("Dropout", (1, 32, 37, 37)),
    ("Conv2d", (1, 64, 37, 37)),
    ("ReLU", (1, 64, 37, 37)),
    ("BatchNorm2d", (1, 64, 37, 37)),
    ("ZeroPad2d", (1, 64, 38, 38)),
    ("Conv2d", (1, 128, 37, 37)),
    ("ReLU", (1, 128, 37, 37)),
    ("MaxPool2d", (1, 128, 12, 12)),
    ("Dropout", (1, 128, 12, 12)),
    ("Flatten", (1, 18432)),
    ("Linear", (1, 128)),
    ("ReLU", (1, 128)),
    ("Dropout", (1, 128)),
    ("Linear", (1, 3)),
]


def layers(model: Classifier) -> list[nn.Module]:
    return [layer for part in (model.third, model.fourth, model.head) for layer in part]


def discs(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy images of 16 px: nothing, a disc on the left, a disc on the right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(60, 120, (count, 16, 16), dtype=np.uint8)
    images[labels == 1, 5:11, 2:7] += 90
    images[labels == 2, 5:11, 9:14] += 90
    return images, labels


def test_parameters_are_those_of_the_published_model() -> None:
    model = Classifier()
    trainable = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for b in model.buffers() if b.ndim)
    assert trainable == 2_416_451
    assert trainable + statistics == 2_416_611


def test_every_layer_has_the_published_shape() -> None:
    model = Classifier().eval()
    x = torch.rand(1, 3, 112, 112)
    seen = []
    for layer in layers(model):
        x = layer(x)
        seen.append((type(layer).__name__, tuple(x.shape)))
    assert seen == SHAPES


def test_batch_norm_dropout_and_initial_weights_are_those_of_keras() -> None:
    model = Classifier()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(n.momentum, n.eps) for n in norms] == [(0.01, 1e-3)] * 2
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.2, 0.5]
    for layer in layers(model):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        assert layer.bias is not None
        assert not layer.bias.any()
        area = layer.weight[0, 0].numel()
        limit = (6 / (area * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
        assert 0.95 * limit < layer.weight.abs().max().item() <= limit


def test_the_even_convolution_pads_right_and_bottom_as_keras_does() -> None:
    model = Classifier(image_size=16).eval()
    maps = torch.randn(2, 64, 5, 5)
    convolution = model.fourth[1]
    assert isinstance(convolution, nn.Conv2d)
    weight, bias = convolution.weight.detach().numpy(), convolution.bias
    assert bias is not None
    padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)))
    expected = bias.detach().numpy()[:, None, None] + sum(
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + 5, j : j + 5], weight[:, :, i, j])
        for i in range(2)
        for j in range(2)
    )
    got = model.fourth(maps).detach().numpy()
    assert np.allclose(got, np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize(("size", "classes"), [(6, 3), (16, 2), (32, 3), (112, 4)])
def test_other_sizes_and_class_counts_work(size: int, classes: int) -> None:
    model = Classifier(classes=classes, image_size=size).eval()
    x = torch.rand(2, 3, size, size)
    assert model(x).shape == (2, classes)
    assert model.pooled_features(x).shape == (2, 192)


def test_an_image_too_small_for_the_pools_is_refused() -> None:
    with pytest.raises(InputError, match=">= 6 px"):
        Classifier(image_size=5)


def test_pooled_features_are_the_means_of_the_third_and_fourth_convolution() -> None:
    model = Classifier(image_size=32).eval()
    x = torch.rand(2, 3, 32, 32)
    third, fourth = model.features(x)
    assert third.shape == (2, 64, 10, 10)
    assert fourth.shape == (2, 128, 10, 10)
    assert min(third.min(), fourth.min()) >= 0
    expected = np.concatenate(
        [third.detach().numpy().mean((2, 3)), fourth.detach().numpy().mean((2, 3))], axis=1
    )
    assert np.allclose(model.pooled_features(x).detach().numpy(), expected, atol=1e-6)
    assert torch.equal(model(x), model.head(fourth))


def test_grey_and_colour_images_become_the_same_input() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    x = to_rgb(grey)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min().item(), x.max().item()) == (0, 1)
    assert torch.equal(x, to_rgb(grey[:, None].repeat(1, 3, 1, 1)))


def test_training_learns_what_can_be_learned() -> None:
    images, labels = discs(120, seed=0)
    config = FitConfig(learning_rate=1e-3, epochs=6, batch_size=8)
    model = fit_last(images, labels, config=config, classes=3, seed=0)[0]
    unseen, truth = discs(60, seed=1)
    probabilities = predict(model, unseen)
    assert not model.training
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(60))
    assert (probabilities.argmax(dim=1).numpy() == truth).mean() > 0.95


def test_one_seed_gives_the_same_bits_and_leaves_the_global_random_state() -> None:
    images, labels = discs(24, seed=0)
    config = FitConfig(epochs=2, batch_size=16)
    before = torch.random.get_rng_state()
    models = [
        fit_last(images, labels, config=config, classes=3, seed=seed)[0] for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_last_epochs_are_those_that_shorter_trainings_end_with() -> None:
    images, labels = discs(24, seed=0)
    last = fit_last(
        images, labels, config=FitConfig(epochs=4, batch_size=8), classes=3, seed=1, count=3
    )
    for epochs, model in zip((2, 3, 4), last, strict=True):
        config = FitConfig(epochs=epochs, batch_size=8)
        shorter = fit_last(images, labels, config=config, classes=3, seed=1)[0]
        assert not model.training
        assert torch.equal(predict(model, images), predict(shorter, images))


def test_read_only_arrays_and_tensors_train_alike() -> None:
    images, labels = discs(24, seed=0)
    images.flags.writeable = False
    config = FitConfig(epochs=1)
    one = fit_last(images, labels, config=config, classes=3, seed=0)[0]
    two = fit_last(torch.tensor(images), torch.tensor(labels), config=config, classes=3, seed=0)[0]
    assert torch.equal(predict(one, images), predict(two, torch.tensor(images)))


def test_batch_norm_statistics_are_those_of_all_images_at_once() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (23, 16, 16), dtype=torch.uint8)
    model = Classifier(image_size=16)
    recompute_statistics(model, images, batch_size=5)
    for index, layer in enumerate(model.third):
        if not isinstance(layer, nn.BatchNorm2d):
            continue
        maps: Tensor = model.third[:index](to_rgb(images)).double()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert torch.allclose(layer.running_mean.double(), maps.mean((0, 2, 3)), atol=1e-6)
        variance = maps.var((0, 2, 3), correction=0)
        assert torch.allclose(layer.running_var.double(), variance, rtol=1e-4, atol=1e-7)


def test_results_do_not_depend_on_the_batch_size_and_the_mode_is_kept() -> None:
    images, _ = discs(10, seed=0)
    model = Classifier(image_size=16).train()
    assert torch.allclose(predict(model, images, batch_size=3), predict(model, images), atol=1e-6)
    features = embed(model, images, batch_size=4)
    assert model.training
    expected = model.eval().pooled_features(to_rgb(torch.tensor(images)))
    assert torch.allclose(features, expected, atol=1e-6)


def test_missing_images_or_labels_are_refused() -> None:
    images, labels = discs(6, seed=0)
    for x, y in ((images[:0], labels[:0]), (images, labels[:5])):
        with pytest.raises(InputError, match="as many labels"):
            fit_last(x, y, config=FitConfig(), classes=3, seed=0)
