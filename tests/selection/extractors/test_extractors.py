"""Extractors give torch-fidelity's numbers, never load a file that was not checked, and cache."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation import inception_file
from acgan.evaluation.classifier import Images, predict
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.plugins import EXTRACTORS
from selection.extractors import inception as inception_extractor
from selection.extractors.base import Extractor, View
from selection.extractors.cache import cached_views
from selection.extractors.choose import open_extractor
from selection.extractors.cnn3 import Cnn3
from selection.extractors.inception import enable_torchvision
from selection.metrics.features import FeatureSet
from selection.metrics.fid import frechet
from selection.metrics.inception_score import inception_score
from selection.metrics.kid import kid
from selection.metrics.neighbourhood import neighbourhood_scores
from tests.kit import ROOT, tiny_config, tiny_dataset
from tests.plugins import plugin_installed

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
IMAGES = 8  # a set: Inception takes up to half a second an image on one core


@pytest.fixture(scope="module")
def data() -> Dataset:
    return tiny_dataset()


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of a test's own, and no way to the internet."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 1, 32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of torch-fidelity's Inception, filled at random."""
    enable_torchvision()
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    network = inception.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(inception, "load_state_dict_from_url", lambda url, progress: {})
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        made = network(inception_extractor.INCEPTION, inception_extractor.LAYERS)
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d):  # the usual initial values fade layer by layer
                torch.nn.init.kaiming_normal_(module.weight)
        made.fc.weight.mul_(30)  # so that posteriors differ
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(made.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def sha256(weights: Path) -> str:
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def noise(*, seed: int, level: float, spread: float) -> NDArray[np.uint8]:
    """Draw smooth colour images, [IMAGES, 3, 32, 32]."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.normal(level, spread, (IMAGES, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    return smooth.clamp(0, 255).to(torch.uint8).numpy()


# --- Inception -------------------------------------------------------------------------------


class Pixels(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index])


def test_all_metrics_end_to_end_are_torch_fidelitys(
    data: Dataset, weights: Path, sha256: str
) -> None:
    generated = noise(seed=0, level=100, spread=60)
    real = noise(seed=1, level=130, spread=40)
    extractor = open_extractor("auto", data=data, device=CPU, weights=weights, sha256=sha256)
    (own,), (reference,) = extractor.extract(generated), extractor.extract(real)
    sets = FeatureSet(own.features), FeatureSet(reference.features)
    scores = neighbourhood_scores(*sets)
    mean, deviation = inception_score(own.logits, splits=2)
    import torch_fidelity

    expected = torch_fidelity.calculate_metrics(
        input1=Pixels(generated),
        input2=Pixels(real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=inception_extractor.INCEPTION,
        feature_extractor_weights_path=str(weights),
        feature_layer_prc="2048",
        isc_splits=2,
        kid_subsets=1,
        kid_subset_size=IMAGES,
        save_cpu_ram=True,
        verbose=False,
    )
    assert {
        "inception_score_mean": mean,
        "inception_score_std": deviation,
        "frechet_inception_distance": frechet(*sets),
        "kernel_inception_distance_mean": kid(*sets),
        "kernel_inception_distance_std": 0,
        "precision": scores.precision,
        "recall": scores.recall,
        "f_score": expected["f_score"],
    } == pytest.approx(expected, rel=1e-3)
    # torch-fidelity's sums of kernels are of float32: a KID near zero could not be compared.
    assert expected["kernel_inception_distance_mean"] > 0.01
    assert expected["inception_score_mean"] > 1.01
    assert 0 < expected["precision"] < 1
    assert extractor.suffix == f"inception_{sha256[:8]}"
    assert extractor.independent
    assert not extractor.standard


def test_a_file_with_another_hash_is_refused(data: Dataset, weights: Path, sha256: str) -> None:
    for expected in (None, sha256[:-1] + "x"):
        with pytest.raises(InputError, match="does not hold the Inception weights"):
            open_extractor("auto", data=data, device=CPU, weights=weights, sha256=expected)
    with pytest.raises(InputError, match="cannot read the Inception weights"):
        open_extractor("auto", data=data, device=CPU, weights=weights.with_name("none.pth"))
    with pytest.raises(InputError, match="but the extractor is 'cnn3'"):
        open_extractor("cnn3", data=data, device=CPU, weights=weights)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_even_a_file_with_the_named_hash_is_never_unpickled(data: Dataset, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()
    sprung.unlink()
    for name, content in (("trap", Trap(sprung)), ("other", {"weight": torch.zeros(2)})):
        path = tmp_path / name
        torch.save(content, path)
        expected = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(InputError, match="no state of torch-fidelity's Inception"):
            open_extractor("auto", data=data, device=CPU, weights=path, sha256=expected)
    assert not sprung.exists()


def test_the_standard_weights_are_those_that_torch_fidelity_takes() -> None:
    enable_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert URL_INCEPTION_V3 == inception_file.URL
    assert inception_file.URL.endswith(f"-{inception_file.STANDARD_SHA256[:8]}.pth")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(weights: Path) -> Iterator[str]:
    """The URL of the weights file on a server of this machine."""
    handler = functools.partial(Handler, directory=str(weights.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{weights.name}"
        server.shutdown()
        thread.join()


def test_standard_weights_are_downloaded_once_checked_and_then_cached(
    data: Dataset, sha256: str, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception_extractor, "URL", served)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "random.pth"
    with pytest.raises(InputError, match="cannot be reached"):  # what comes has another hash
        open_extractor("inception-v3-compat", data=data, device=CPU)
    assert not cached.exists()
    monkeypatch.setattr(inception_extractor, "STANDARD_SHA256", sha256)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"damaged")
    extractor = open_extractor("auto", data=data, device=CPU)
    assert hashlib.sha256(cached.read_bytes()).hexdigest() == sha256
    monkeypatch.setattr(inception_extractor, "URL", "http://127.0.0.1:9/random.pth")
    again = open_extractor("inception-v3-compat", data=data, device=CPU)
    for each in (extractor, again):
        assert each.standard
        assert each.independent
        assert (each.name, each.sha256) == ("inception-v3-compat", sha256)
        assert each.suffix == ""


def test_without_a_network_auto_is_cnn3_and_inception_is_refused(data: Dataset) -> None:
    assert isinstance(open_extractor("auto", data=data, device=CPU), Cnn3)
    with pytest.raises(InputError, match=r"cannot be reached; give them with --inception-weights"):
        open_extractor("inception-v3-compat", data=data, device=CPU)


def test_importing_is_cheap_and_torchvision_works_also_after_an_import_that_failed() -> None:
    program = """
import sys
from selection.extractors import inception as extractors
print([name for name in ("torchvision", "torch_fidelity") if name in sys.modules])
try:
    import torchvision
except RuntimeError:
    pass
extractors.enable_torchvision()
extractors.enable_torchvision()
import torch_fidelity, torchvision
print(torchvision.transforms.Resize(4), callable(torch_fidelity.calculate_metrics))
"""
    found = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert found.splitlines()[0] == "[]"
    assert found.splitlines()[1].startswith("Resize(size=4")
    assert found.endswith("True\n")


# --- three CNNs ------------------------------------------------------------------------------


def test_three_cnns_see_images_each_in_its_own_way(data: Dataset) -> None:
    extractor = open_extractor("cnn3", data=data, device=CPU)
    assert isinstance(extractor, Cnn3)
    assert not extractor.standard
    assert not extractor.independent
    assert extractor.suffix == "cnn3"
    views = extractor.extract(data.val.images)
    assert len(views) == 3
    for view, scorer in zip(views, extractor.scorers, strict=True):
        ratio = scorer.project(data.val.images) / view.features.numpy()
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
        probabilities = predict(scorer.classifier, data.val.images).double()
        torch.testing.assert_close(view.logits.softmax(dim=1), probabilities)
    seen = extractor.extract(data.train.images)  # the principal components hold nearly all
    assert [float(view.features.square().mean()) for view in seen] == pytest.approx(
        [1] * 3, abs=0.1
    )
    assert not torch.equal(views[0].features, views[1].features)
    assert not torch.equal(views[1].features, views[2].features)


def test_the_three_cnns_are_not_the_searchs_and_are_trained_once(
    data: Dataset, tmp_path: Path
) -> None:
    own = cached_scorer(data, tiny_config(), CPU)
    first = Cnn3(data, CPU)
    files = sorted((tmp_path / "cache" / "scorers").iterdir())
    written = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 4
    again = Cnn3(data, CPU)
    assert again.sha256 == first.sha256
    assert [path.stat().st_mtime_ns for path in files] == written
    search = Scorer.load(own, classes=3, image_size=16, device=CPU).classifier.state_dict()
    for scorer in first.scorers:
        state = scorer.classifier.state_dict()
        assert not any(torch.equal(state[k], search[k]) for k in state if k.endswith("0.weight"))
    other = Cnn3(tiny_dataset(train=45), CPU)
    assert other.sha256 != first.sha256


def test_the_hash_covers_all_three_cnns(data: Dataset, tmp_path: Path) -> None:
    before = Cnn3(data, CPU).sha256
    for path in (tmp_path / "cache" / "scorers").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert Cnn3(data, CPU).sha256 != before
        path.write_bytes(content)
    assert Cnn3(data, CPU).sha256 == before


# --- by name ---------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_nearest(data: Dataset) -> None:
    with pytest.raises(InputError, match="unknown extractor 'inception'; did you mean 'inception-"):
        open_extractor("inception", data=data, device=CPU)


PLUGIN = """
import torch
from selection.extractors import Extractor, View

class Mean(Extractor):
    def extract(self, images):
        return (View(torch.zeros(len(images), 4), torch.zeros(len(images), 2)),)

def good(data, device):
    return Mean("plain-mean", "0" * 64, independent=True)

def bad(data, device):
    return len(data.classes), device
"""


def test_a_package_adds_an_extractor_by_an_entry_point(data: Dataset, tmp_path: Path) -> None:
    entries = {"plain-mean": "good", "other-name": "good", "broken": "bad"}
    with plugin_installed(tmp_path, EXTRACTORS, entries, PLUGIN):
        extractor = open_extractor("plain-mean", data=data, device=CPU)
        assert extractor.suffix == "plain-mean"
        assert extractor.extract(data.val.images)[0].features.shape == (24, 4)
        for name in ("other-name", "broken"):
            with pytest.raises(InputError, match=f"the plug-in '{name}' must return"):
                open_extractor(name, data=data, device=CPU)


# --- the cache -------------------------------------------------------------------------------


class Counting(Extractor):
    """Means of rows as features, means of columns as logits; counts how often it is asked."""

    def __init__(self, name: str = "counting", sha256: str = "0" * 64) -> None:
        super().__init__(name, sha256, independent=True)
        self.asked = 0

    def extract(self, images: Images) -> tuple[View, ...]:
        self.asked += 1
        pixels = torch.tensor(images).double()
        view = View(pixels.mean(dim=-1), pixels.mean(dim=-2).float())
        return view, View(view.features + 1, view.logits + 1)


def same(a: tuple[View, ...], b: tuple[View, ...]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.features, y.features)
        and torch.equal(x.logits, y.logits)
        and x.features.dtype == y.features.dtype
        for x, y in zip(a, b, strict=True)
    )


def test_features_of_the_same_bytes_are_extracted_once(data: Dataset) -> None:
    images, extractor = data.val.images, Counting()
    expected = extractor.extract(images)
    for given in (images, images.copy(), np.asfortranarray(images)):
        assert same(cached_views(extractor, given), expected)
    assert extractor.asked == 2
    changed = images.copy()
    changed[3, 2, 1] ^= 1
    for given in (changed, images[:-1], images.reshape(24, 8, 32)):
        cached_views(extractor, given)
    assert extractor.asked == 5
    for other in (Counting(sha256="1" * 64), Counting(name="other")):
        cached_views(other, images)
        assert other.asked == 1
    for version in ("mine 1.0", "mine 1.1"):  # other code may make other features of the weights
        asked = extractor.asked
        cached_views(extractor, images, version=version)
        assert extractor.asked == asked + 1


def test_a_damaged_cache_file_is_made_again(data: Dataset, tmp_path: Path) -> None:
    images, extractor = data.val.images, Counting()
    expected = cached_views(extractor, images)
    (path,) = (tmp_path / "cache" / "features").iterdir()
    content = path.read_bytes()
    bit = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    for asked, damaged in enumerate((bit, content[:-8], b"", pickle.dumps(expected)), start=2):
        path.write_bytes(damaged)
        assert same(cached_views(extractor, images), expected)
        assert extractor.asked == asked
        assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_said_in_one_sentence(
    data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="name another folder in ACGAN_CACHE"):
        cached_views(Counting(), data.val.images)


def test_grey_and_colour_and_read_only_images_look_alike_to_inception(
    data: Dataset, weights: Path, sha256: str
) -> None:
    extractor = open_extractor("auto", data=data, device=CPU, weights=weights, sha256=sha256)
    grey = data.val.images[:2].copy()
    grey.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (seen,) = extractor.extract(grey)
    (colour,) = extractor.extract(torch.tensor(grey)[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(seen.features, colour.features)
    assert torch.equal(seen.logits, colour.logits)
    assert seen.features.shape == (2, 2048)
    assert seen.features.std() > 1e-3
