"""Notes: what MLflow shows above an experiment, a study, a trial or a pick.

A note is written anew as long as it is as it was written: its last line holds a digest of the rest,
so what a person wrote or changed stays. Commands in it name runs, for it is read anywhere.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence

from mlflow.entities import Run

from acgan.command import significant
from acgan.run.records import QUALITY, best_name
from search.settings import SearchConfig
from search.study import table
from search.study.folder import BASELINE, Outcome, Study, Trial, trial_name
from search.study.objective import Ended
from search.tracking import view
from search.tracking.connection import Client
from search.tracking.uris import uri_flag

NOTE = "mlflow.note.content"
SUMMARY = "summary"  # the tag of a pick that says in a phrase what was picked
MOST_TRIALS, MOST_STUDIES, MOST_PICKS = 20, 10, 3  # in one note, for its limit
LIMIT = 7500  # characters; MLflow cuts a run's tag at 8,000

_SIGNED = re.compile(r"\n\n\*Kept up to date until somebody changes it \(([0-9a-f]{8})\)\.\*\Z")
_BEFORE = re.compile(r"\d+ trials of the study ")  # how notes began that were not signed


def signed(text: str) -> str:
    """Return a note as it is written: the text, and the line by which it is known again."""
    text = text[:LIMIT]
    return f"{text}\n\n*Kept up to date until somebody changes it ({_digest(text)}).*"


def is_own(note: str | None) -> bool:
    """Whether a note may be written anew: there is none, or nobody has changed it."""
    if not note:
        return True
    end = _SIGNED.search(note)
    if end is None:
        return _BEFORE.match(note) is not None
    return end[1] == _digest(note[: end.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def send_run(client: Client, run: Run, text: str) -> None:
    """Write a run's note, unless it is there or a person's; `run` as it is now."""
    there, note = run.data.tags.get(NOTE), signed(text)
    if there != note and is_own(there):
        client.set_tag(run.info.run_id, NOTE, note)


def send_study(client: Client, study: Study, parent_id: str) -> None:
    """Write the notes of a study's run and of its experiment, unless they are there or a person's.

    parent_id: the study's run
    """
    parent = client.get_run(parent_id)
    experiment = client.get_experiment(parent.info.experiment_id)
    picks = client.search_runs(
        [experiment.experiment_id],
        "tags.stage = 'selection' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=100,
    )
    own = [pick for pick in picks if pick.data.tags.get("mlflow.parentRunId") == parent_id]
    send_run(client, parent, of_study(study, parent, own, uri_flag(client.tracking_uri)))
    studies = client.search_runs(
        [experiment.experiment_id],
        "tags.stage = 'search'",
        order_by=["attributes.start_time DESC"],
        max_results=MOST_STUDIES,
    )
    there = experiment.tags.get(NOTE)
    note = signed(of_experiment(studies, picks, viewed=set(experiment.tags)))
    if there != note and is_own(there):
        client.set_experiment_tag(experiment.experiment_id, NOTE, note)


def of_study(study: Study, parent: Run, picks: Sequence[Run], flags: Sequence[str]) -> str:
    """Return what a study's run is: how many trials have ended, the best, all in order, picks.

    picks: their runs, the latest first
    flags: by which a command finds this MLflow
    """
    config = SearchConfig.model_validate(study.info.search)
    found = table.table_lines(study, config)
    ended = sum(line.outcome is not None and line.outcome.counts for line in found)
    trials, charts = view.links(study.info.uuid, parent.info.experiment_id)
    named = ["--run-id", parent.info.run_id, *flags]
    parts = [
        f"{ended} trials of the study {study.info.name} have ended, on {study.info.data_name}: "
        f"[the trials in order](#{trials[2:]}), [curves and images](#{charts[2:]}).",
        f"{table.comparison(found, config)}.",
        table.ranking(found, config, most=MOST_TRIALS),
        *(f"Picked: {_of_pick(pick)}" for pick in picks[:MOST_PICKS]),
        f"Pictures of the search are in the [artifacts]({page(parent, 'artifacts/pictures')}). "
        f"What stands on disk: `{study.place}`",
        "To pick a generator: " + command("selection.pick", *named) + "  \n"
        "To look at the candidates: " + command("selection.review", *named),
    ]
    return "\n\n".join(parts)


def of_experiment(studies: Sequence[Run], picks: Sequence[Run], *, viewed: set[str]) -> str:
    """Return what an experiment is: its studies, the latest first, with the best and the pick.

    picks: the runs of all picks, the latest first
    viewed: the experiment's tags, of which some hold views of studies
    """
    rows = [["study", "images", "best", "picked"], ["---"] * 4]
    for run in studies:
        tags, info = run.data.tags, run.info
        study_id = tags.get("study_id", "")
        name = f"[{info.run_name}]({page(run)})"
        if f"{view.TAG}{view.key_of(study_id)}" in viewed:
            trials, charts = view.links(study_id, info.experiment_id)
            name = f"{info.run_name} ([trials](#{trials[2:]}), [curves and images](#{charts[2:]}))"
        inputs = [] if run.inputs is None else run.inputs.dataset_inputs
        objective = run.data.params.get("search.objective", QUALITY)
        value = run.data.metrics.get(best_name(objective))
        best = "no trial has finished yet"
        if value is not None:
            best = f"best {objective} {significant(value)}, {tags.get('best_trial', '')}"
        own = (pick for pick in picks if pick.data.tags.get("mlflow.parentRunId") == info.run_id)
        data = inputs[0].dataset.name if inputs else ""
        rows.append([name, data, best, next(map(_of_pick, own), "")])
    listed = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    latest = f" The latest study is {rows[2][0]}: {rows[2][2]}." if len(rows) > 2 else ""
    return (
        f"Searches for AC-GANs, by acgan-search.{latest}\n\nA study is a run, its trials and picks "
        f"are the runs below it.\n\n{listed}"
    )


def of_trial(
    study: Study, trial: Trial, ended: Ended | None, parent: Run, run_id: str, flags: Sequence[str]
) -> str:
    """Return what a trial's run is: how it ended, its value, its parameters beside the baseline's.

    ended: what it is judged by; None where it has no epoch
    """
    config = SearchConfig.model_validate(study.info.search)
    role = " (the baseline)" if trial.name == trial_name(BASELINE) else ""
    if trial.info.repeats is not None:
        role = f" (a repeat of {trial.info.repeats} with another seed)"
    trials, _ = view.links(study.info.uuid, parent.info.experiment_id)
    head = f"Trial {trial.name}{role} of the study [{study.info.name}](#{trials[2:]})"
    if ended is not None:
        at = "" if ended.outcome is Outcome.FINISHED else f" at epoch {ended.epochs}"
        value = f"{config.objective} {significant(ended.value)}" if ended.epochs else "no epoch"
        head += f": {ended.outcome}{at}, {value}"
    rows = [["parameter", "value", "baseline"], ["---"] * 3]
    for name, own in trial.info.params.items():
        rows.append([name, table.short(own), table.short(study.info.train.get(name, ""))])
    named = ["--run-id", run_id, *flags]
    parts = [
        f"{head}.",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "Exact values and the seed: config.json in the artifacts. Step 0 of the images is the "
        f"untrained generator, an even grey. Weights and records: "
        f"`{study.place}/{trial.name}`",
        "To pick one of its epochs: " + command("selection.pick", *named) + "  \n"
        "To train it again and compare: " + command("search.reproduce", *named),
    ]
    return "\n\n".join(parts)


def _of_pick(run: Run) -> str:
    text = run.data.tags.get(SUMMARY, run.info.run_name)
    report = page(run, "artifacts/selection/report.html")
    return f"{text} ([run]({page(run)}), [report]({report}))"


def page(run: Run, part: str = "") -> str:
    """Return a run's page, or a part of it, as a link on MLflow's own pages."""
    path = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/{part}".rstrip("/")
    return f"{path}?workflowType=machine_learning"


def command(module: str, *words: str) -> str:
    """Return a command as Markdown."""
    return f"`{shlex.join(['python', '-m', module, *words])}`"
