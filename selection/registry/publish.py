"""What a pick leaves in MLflow: a child run of the study's with everything, and the champion."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag

from acgan.command import typed
from acgan.errors import InputError
from search.study.folder import Study
from search.tracking import connection, find, notes, uris
from selection.ledgers.reviews import (
    Entry,
    Look,
    in_words,
    looks,
    of_weights,
    read_reviews,
    review_standing,
    reviews_path,
)
from selection.metrics.registry import parse
from selection.registry import versions
from selection.registry.promotion import Champion
from selection.registry.versions import About
from selection.steps.result import Pick, read_pick

STAGE = "selection"
REVIEWS = "reviews"
TEXT_LIMIT = 5000  # characters of a tag


def selection_run(client: connection.Client, pick: Pick, parent_id: str) -> str:
    """Return the MLflow run of a pick, a new one if there is none: a child of the study's run.

    parent_id: the study's run in this MLflow, which need not be the one it was picked with
    """
    return child_run(
        client,
        parent_id,
        name=f"selection-{pick.id}",
        created=pick.created,
        known_by={"study_id": pick.study_id, "stage": STAGE, "pick": pick.id},
    )


def child_run(
    client: connection.Client,
    parent_id: str,
    *,
    name: str,
    created: float,
    known_by: Mapping[str, str],
) -> str:
    """Return the child of a study's run that has these tags, a new one if there is none."""
    wanted = " AND ".join(f"tags.{tag} = '{value}'" for tag, value in known_by.items())
    found = find.find_runs(client, wanted)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(
        client.get_run(parent_id).info.experiment_id,
        start_time=connection.milliseconds(created),
        run_name=name,
        tags={**known_by, "mlflow.parentRunId": parent_id},
    )
    return str(run.info.run_id)


def register_pick(
    client: connection.Client,
    pick: Pick,
    run_id: str,
    weights: Path,
    *,
    reviews: Sequence[Entry] = (),
    about: About | None = None,
    held_back: str = "",
) -> int:
    """Make the winner a version of the registry, and its champion; return the version.

    reviews: what people saw and decided by now; about: what a person reads of it there;
    held_back: why it is not to become the champion
    """
    winner = pick.winner
    tags: dict[str, object] = {
        "study": pick.study,
        "trial": winner.trial,
        "epoch": winner.epoch,
        "data_fingerprint": pick.fingerprint,
        "memorisation": pick.memorisation,
        "variety": pick.variety,
        "reviewed": of_weights(reviews, winner.weights)[:TEXT_LIMIT] or "nobody looked",
        **{name.replace("/", "."): f"{value:.6g}" for name, value in scores(pick).items()},
    }
    return versions.register(
        client,
        run_id=run_id,
        pick=pick.id,
        weights=weights,
        tags=tags,
        about=about,
        held_back=held_back,
    )


def champion(client: connection.Client, reviews: Sequence[Entry] = ()) -> Champion | None:
    """Return the registry's present champion, with the pick that its run holds.

    reviews: what people saw and decided by now
    """
    version = versions.champion(client)
    if version is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = versions.file_of(client, version, f"{STAGE}/pick.json", Path(folder))
        pick = None
        if path is not None:
            with contextlib.suppress(InputError):  # damaged, or of a later version
                pick = read_pick(path)
    weights = version.tags.get("weights_sha256", "")
    rejected = review_standing(reviews).get(weights) == "rejected"
    return Champion(str(version.version), weights, pick, rejected)


def scores(pick: Pick) -> dict[str, float]:
    """Return the winner's scores as they stand in MLflow, those on validation images by name."""
    winner = pick.winner
    found: dict[str, float] = {}
    if winner.utility is not None:
        found["validation/cnn_accuracy"] = winner.utility.accuracy.value
        found["validation/cnn_balanced_accuracy"] = winner.utility.balanced_accuracy.value
    if winner.fidelity is not None:
        known = winner.fidelity.metrics["validation"]
        for name, value in known.items():
            if not ((key := parse(name)) and key.of_class):
                found[f"validation/{name}"] = value
    return found


def finish(client: connection.Client, pick: Pick, run_id: str, folder: Path) -> None:
    """Write a pick's settings, scores and files to its run; FINISHED, written last, means all.

    The files of one that is finished are sent again: somebody may have looked since, or searched;
    so is its note.
    """
    finished = client.get_run(run_id).info.status == "FINISHED"
    if not finished:
        moment, winner = connection.milliseconds(pick.created), pick.winner
        settings = pick.settings.items()
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, moment, 0) for name, value in scores(pick).items()],
            params=[Param(f"selection.{name}", str(value)) for name, value in settings],
            tags=[RunTag("trial_picked", winner.trial), RunTag("epoch_picked", str(winner.epoch))],
            synchronous=True,
        )
    with connection.transfer():
        client.log_artifacts(run_id, str(folder), artifact_path=STAGE)
    run = client.get_run(run_id)
    if notes.SUMMARY not in run.data.tags:
        client.set_tag(run_id, notes.SUMMARY, _summary(pick))
    notes.send_run(client, run, _note(client, pick, run))
    if not finished:
        client.set_terminated(run_id, "FINISHED")


def _summary(pick: Pick) -> str:
    accuracy = scores(pick).get("validation/cnn_balanced_accuracy")
    taught = "" if accuracy is None else f", balanced accuracy of CNNs trained on it {accuracy:.2f}"
    return f"{pick.winner.name}{taught}"


def _note(client: connection.Client, pick: Pick, run: Run) -> str:
    """Return what a pick's run is: what was picked, where report and model are, what is next."""
    flags = uris.uri_flag(client.tracking_uri)
    parts = [
        f"The pick {pick.id} of the study {pick.study}: {pick.winner.name}. "
        f"[Report]({notes.page(run, f'artifacts/{STAGE}/report.html')})"
    ]
    known = run.data.tags["mlflow.parentRunId"] if pick.scope == "study" else pick.run_id
    following = ["--run-id", known, *flags]
    look = "To look at its candidates: " + notes.command("selection.review", *following)
    found = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    if found:
        version = max(found, key=lambda known: int(known.version))
        name, number = version.name, version.version
        parts[0] += f", [version {number} of {name}](#/models/{name}/versions/{number})"
        parts.append(version.description or "")
        words = ["--model", f"models:/{name}/{number}", "--per-class", "1000", "--out", "generated"]
        look += "  \nTo make images of it: " + notes.command("selection.generate", *words, *flags)
    return "\n\n".join([*filter(None, parts), look])


def send_reviews(client: connection.Client, study: Study) -> None:
    """Bring what people saw and decided to the study's run: a tag a candidate, and the ledger.

    Raises `InputError` if MLflow does not have the study. The tag `reviews`, written last, says
    how many lines of the ledger are there; sending them again changes nothing.
    """
    entries = read_reviews(study)
    if not entries:
        return
    parent = find.run_of_study(client, study)
    if parent is None:
        sync = ["python", "-m", "search.sync", *uris.naming(study, client.tracking_uri)]
        raise InputError(f"it does not have the study; send it there: {typed(sync)}")
    if parent.data.tags.get(REVIEWS) == str(len(entries)):
        return
    run_id = parent.info.run_id
    of_one: dict[str, list[Look]] = {}
    for look in looks(entries):
        of_one.setdefault(look.weights, []).append(look)
    tags = [
        RunTag(f"review.{weights[:12]}", in_words(own)[:TEXT_LIMIT])
        for weights, own in of_one.items()
    ]
    with connection.transfer():
        client.log_artifact(run_id, str(reviews_path(study)), REVIEWS)
    client.log_batch(run_id, tags=tags, synchronous=True)
    client.set_tag(run_id, REVIEWS, str(len(entries)))
