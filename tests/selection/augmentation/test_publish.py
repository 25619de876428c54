"""What an augmentation study leaves in MLflow, whatever its classes are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from selection.augmentation.arms import GAN
from selection.augmentation.publish import publish
from selection.augmentation.result import ArmResult, AugmentationStudy
from tests.augmentations import made_study
from tests.kit import CLASSES

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]

CALLED = {
    "COVID-19": "COVID-19",
    "Lung Opacity": "Lung_Opacity",
    "Röntgen": "Röntgen",
    "Nodule (benign)": "Nodule__benign_-",
    "CD4+": "CD4_-",
    "a/b": "a_b-",
    "../c": "_.",
    "loss of volume": "loss_of_volume",
}


def of_classes(names: tuple[str, ...]) -> AugmentationStudy:
    """Return a study of classes of other names, whose first one is thinned out."""

    def renamed(arm: ArmResult) -> ArmResult:
        scores = arm.scores
        for name, other in zip(CLASSES, names, strict=True):
            own = f"recall of {name}"
            scores = {f"recall of {other}" if k == own else k: v for k, v in scores.items()}
        return arm.model_copy(update={"scores": scores})

    made = made_study()
    arms = [renamed(arm) for arm in made.arms]
    update = {"classes": list(names), "arms": arms, "kept": {names[0]: 0.25}}
    return made.model_copy(update=update)


@pytest.mark.parametrize("name", CALLED)
def test_mlflow_takes_a_study_whatever_its_classes_are_called(
    client: MlflowClient, parent: Run, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    study = of_classes((name, "normal", "pneumonia"))
    run = client.get_run(publish(client, study, parent.info.run_id, folder))
    assert run.info.status == "FINISHED"
    (own,) = (key for key in run.data.params if key.startswith("augmentation.keep."))
    called = own.removeprefix("augmentation.keep.")
    assert called.startswith(CALLED[name])
    recall = study.arm(GAN.name).scores[f"recall of {name}"].value
    assert run.data.metrics[f"gan/recall/{called}"] == recall
    assert {"gan/recall/normal", "gan/balanced_accuracy"} <= run.data.metrics.keys()
