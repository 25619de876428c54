"""What an augmentation study leaves in MLflow: a child run of the search's study."""

from pathlib import Path

from mlflow.entities import Metric, Param, RunTag

from acgan.data.table import file_stem
from search.tracking import connection
from selection.augmentation.result import AugmentationStudy
from selection.registry.publish import child_run

STAGE = "augmentation"


def publish(
    client: connection.Client, study: AugmentationStudy, parent_id: str, folder: Path
) -> str:
    """Bring a study to MLflow, if it is not there, below the search's run; return its own."""
    tags = {"study_id": study.study_id, "stage": STAGE, "augmentation": study.id}
    run_id = child_run(
        client,
        parent_id,
        name=f"augmentation-{study.id}",
        created=study.created,
        known_by=tags | {"pick": study.pick},
    )
    if client.get_run(run_id).info.status == "FINISHED":
        return run_id
    moment = connection.milliseconds(study.created)
    settings = {**study.budget, "seeds": study.seeds, "seed": study.seed, "split": study.split}
    settings |= {f"keep.{_in_a_key(name)}": share for name, share in study.kept.items()}
    tags = {"sentence": study.sentence} if study.sentence else {"optimistic": "validation images"}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, moment, 0) for name, value in study_metrics(study).items()],
        params=[Param(f"augmentation.{name}", str(value)) for name, value in settings.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
        synchronous=True,
    )
    with connection.transfer():
        client.log_artifacts(run_id, str(folder), artifact_path=STAGE)
    client.set_terminated(run_id, "FINISHED")  # last: it means that all is there
    return run_id


def study_metrics(study: AugmentationStudy) -> dict[str, float]:
    """Return the scores as they stand in MLflow, `gan/balanced_accuracy` and so on."""
    found = {}
    for arm in study.arms:
        for name, score in arm.scores.items():
            if " of source " not in name:
                measure, of, class_name = name.partition(" of ")
                key = measure.replace(" ", "_") + (f"/{_in_a_key(class_name)}" if of else "")
                found[f"{arm.name}/{key}"] = score.value
    return found


def _in_a_key(class_name: str) -> str:
    """Return a class's name, or in its place one that MLflow takes: of letters, digits, _, - and .

    Other classes have other ones.
    """
    plain = class_name.replace(" ", "_")
    return plain if file_stem(plain) == plain else file_stem(class_name)
