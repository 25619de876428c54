"""The pictures of a pick: real and generated samples, nearest pairs, walks, films, t-SNE."""

from collections.abc import Mapping

from acgan.files import replace_bytes
from selection.jobs.results import Work
from selection.jobs.workers import Workers
from selection.pictures.films import LIMIT_BYTES, film
from selection.pictures.names import changes_name, film_name, grid_name, walks_name
from selection.pictures.sheets import sample_grid
from selection.pictures.tsne import Points, tsne_picture
from selection.pictures.walks import CHANGES_PICTURE, WALKS_PICTURE, WalksJob
from selection.steps.fidelity import CLOSEST, GRID, FidelityJob
from selection.steps.plan import PickPlan

FILMS_BYTES = 12_000_000  # of all trials together: they are embedded in the report


def pictures(
    plan: PickPlan,
    workers: Workers,
    work: Work,
    finalists: Mapping[int, FidelityJob],
    *,
    winner: int,
) -> None:
    """Put the pictures into the pick's folder; finalists: what measured each, by its place."""
    folder, val = plan.folder, plan.data.val
    replace_bytes(folder / "real.png", sample_grid(val.images, val.labels))
    _walks(plan, workers, work, finalists)
    _films(plan, finalists)
    for place, job in finalists.items():
        epoch = plan.candidates[place].epoch
        replace_bytes(folder / grid_name(epoch), job.file(GRID).read_bytes())
    best = finalists.get(winner)
    if best is not None:
        replace_bytes(folder / "closest.png", best.file(CLOSEST).read_bytes())
        replace_bytes(folder / "tsne.png", _t_sne(plan, best))


def _walks(
    plan: PickPlan, workers: Workers, work: Work, finalists: Mapping[int, FidelityJob]
) -> None:
    jobs = {place: WalksJob(work, job.weights) for place, job in finalists.items()}
    results = workers.do(list(jobs.values()), "walks through latents")
    for place, job in jobs.items():
        if results[job].failed:
            continue
        epoch = plan.candidates[place].epoch
        for name, ending in ((walks_name, WALKS_PICTURE), (changes_name, CHANGES_PICTURE)):
            replace_bytes(plan.folder / name(epoch), job.file(ending).read_bytes())


def _films(plan: PickPlan, finalists: Mapping[int, FidelityJob]) -> None:
    trials = sorted({plan.candidates[place].epoch.trial for place in finalists})
    for name in trials:
        limit = min(LIMIT_BYTES, FILMS_BYTES // len(trials))
        made = film(plan.study.trial(name), plan.records[name], limit=limit)
        if made is not None:
            replace_bytes(plan.folder / film_name(name), made.content)


def _t_sne(plan: PickPlan, job: FidelityJob) -> bytes:
    kept = {name: tensor.numpy() for name, tensor in job.features().items()}
    return tsne_picture(
        Points(kept["real"], kept["real_labels"]),
        Points(kept["generated.0"], kept["generated_labels"]),
        classes=plan.data.classes,
        seed=plan.settings.seed,
    ).picture
