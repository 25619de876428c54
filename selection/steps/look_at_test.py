"""The look at the test images: once per pick, and counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import Field

from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.generation.generator import LoadedGenerator
from search.nodes.sees import set_aside
from selection.extractors.base import ExtractorInfo
from selection.jobs.results import CandidateJob, Result, StoredJob
from selection.jobs.workers import Results
from selection.metrics import reference
from selection.metrics.estimate import Images
from selection.steps import utility
from selection.steps.fidelity import FEATURES, FIDELITY_SETTINGS, FidelityJob, features_of


class Seen(Result):
    """What was seen of one candidate on the test images: hits of its CNNs, and metrics."""

    images: Images = Images(labels=[], patients=[])
    sources: list[str] = Field(default_factory=list)
    hits: list[str] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class LookJob(CandidateJob[Seen]):
    """CNNs and features of one generator on the test images, as in steps 2 and 3.

    numbers: of CNNs by which nothing was chosen; the images that are measured are such, too.
    Those of steps 2 and 3 were part of what won.
    """

    kind = "test"
    model = Seen
    setting_names = FIDELITY_SETTINGS

    numbers: tuple[int, ...]
    extractor: ExtractorInfo

    @property
    def parts(self) -> tuple[object, ...]:
        """The weights, the extractor and the CNNs."""
        return self.weights.sha256, self.extractor.sha256, self.numbers, *self.work.plugin

    def compute(self, *, gpu: bool) -> Seen:
        """Train further CNNs and score them, and features of further images, on the test images."""
        try:
            return self._see(gpu=gpu)
        except InputError:  # says nothing of the candidate, and can be mended
            raise
        except ValueError as error:  # images that are all the same, or not finite
            return Seen(failed=str(error))

    def _see(self, *, gpu: bool) -> Seen:
        data, settings = self.work.all_data(), self.work.settings
        generator = self.work.load(self.weights, set_aside(gpu))
        cnns = (utility.train_on_generated(generator, settings, number=n) for n in self.numbers)
        hits = [utility.hits(models, data.test) for models in cnns]
        return Seen(
            images=Images.of(data.test),
            sources=list(data.test.sources),
            hits=hits,
            metrics=self._metrics(generator, data, gpu=gpu),
        )

    def _metrics(self, generator: LoadedGenerator, data: Dataset, *, gpu: bool) -> dict[str, float]:
        """Compare images with the test images; nothing where step 3 could not measure any."""
        if not FidelityJob(self.work, self.weights, self.extractor).file(FEATURES).exists():
            return {}
        extractor = self.work.open_extractor(gpu=gpu, known=self.extractor)
        test = features_of(extractor.extract(data.test.images))
        real = reference.reference(test, data.test.labels, classes=len(data.classes))
        images, labels = self.work.fidelity_images(generator, "test images")
        features = features_of(extractor.extract(images))
        generated = reference.reference(features, labels, classes=len(data.classes))
        return reference.metrics(extractor, generated, real, data.classes)


@dataclass(frozen=True)
class RealLookJob(StoredJob[utility.Scored]):
    """CNN `number` (from 0) of the real training images, that of step 2, on the test images.

    Nothing is chosen by these CNNs, so they are those of the ceiling.
    """

    kind = "test-real"
    model = utility.Scored
    setting_names = utility.CNN_SETTINGS

    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"CNN {self.number + 1} of real images, on the test images"

    @property
    def parts(self) -> tuple[object, ...]:
        """Which CNN it is."""
        return (self.number,)

    def compute(self, *, gpu: bool) -> utility.Scored:
        """Score the CNN on the test images; train it where this node's cache lacks it."""
        data = self.work.all_data()
        models = utility.train_on_real(
            data, self.work.settings, number=self.number, device=set_aside(gpu)
        )
        return utility.Scored(hits=utility.hits(models, data.test))


def seen_of(
    jobs: Mapping[str, LookJob], results: Results, say: Callable[[str], None]
) -> dict[str, Seen]:
    """Return what was seen of the winner and, where its images could be looked at, the baseline.

    Nobody can reject a baseline that is there for comparison only, so a pick goes on without it.
    Raises `InputError` for a winner that could not be looked at.
    """
    found = {name: results[job] for name, job in jobs.items()}
    for name, job in jobs.items():
        failed = found[name].failed
        if failed and name == "winner":
            raise InputError(
                f"{job.name} cannot be looked at on the test images: {failed}; reject it with "
                "selection.review, and pick again"
            )
        if failed:
            say(f"{job.name} is not compared with on the test images: {failed}")
            del found[name]
    return found
