"""Compare TPE with early stopping and random search: who finds better generators sooner.

Many configurations are trained once, without early stopping; then four searches are replayed on
their curves with many seeds. The same command again goes on where it was. With `--curves` the
curves are kept in one small file; where it is there already, nothing is trained:

    python -m benchmarks.quality --data DIR --curves FILE.jsonl.gz --out docs/performance.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from acgan.command import say
from acgan.config import TrainConfig, find_file, read_file, user_path, validate
from acgan.cores import usable_cores
from acgan.data.source import PHANTOM
from acgan.errors import InputError
from acgan.files import replace_bytes
from acgan.run.records import QUALITY, WINDOW
from benchmarks.curves import JUDGED, Curves, read_curves, write_curves
from benchmarks.picture import draw
from benchmarks.real_searches import Found, RealSearches, search_within
from benchmarks.replay import RANDOM, SEARCHERS, Answers, Replay, Searcher, replay_all
from benchmarks.report import benchmark, benchmark_parser, image_source, table, whole
from benchmarks.standing import band, epochs_to, percent, record
from benchmarks.train_curves import Asked, train_curves
from search.study import space

CONFIG = Path("configs/covidx.yaml")  # whose space is searched, around the published baseline
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the compute, at which the searches are compared

Replays = Mapping[Searcher, Sequence[Replay]]


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("quality", __doc__)
    add = parser.add_argument
    add("--data", type=image_source, default=PHANTOM, help="folder of images (default: phantom)")
    add("--configurations", type=whole(1), default=64, help="to be trained (default: 64)")
    add("--image-size", type=whole(1), default=32, help="pixels a side (default: 32)")
    add("--width", type=float, default=0.25, help="factor on channel counts (default: 0.25)")
    add("--batch-size", type=whole(1), default=16, help="real images per step (default: 16)")
    add("--epochs", type=whole(1), default=24, help="of each configuration (default: 24)")
    add("--folder", default="build/quality", help="runs and studies (default: build/quality)")
    add("--curves", type=Path, metavar="FILE", help="read the curves, or write them (.jsonl[.gz])")
    add("--jobs", type=whole(1), default=usable_cores(), help="processes at once")
    add("--seeds", type=whole(1), default=100, help="replays of each search (default: 100)")
    add("--workers", type=whole(1), default=4, help="trials at once in a replay (default: 4)")
    add("--trials", type=whole(1), default=32, help="full trials whose compute is spent")
    add("--check", type=whole(1), metavar="TRIALS", help="then search really with so much compute")
    return parser


def _measure(options: argparse.Namespace) -> str:
    curves = _curves(options)
    budget = options.trials * curves.epochs
    say(f"replaying {len(SEARCHERS)} searches with {options.seeds} seeds each")
    replays = replay_all(
        Answers(curves),
        seeds=options.seeds,
        workers=options.workers,
        budget=budget,
        jobs=options.jobs,
    )
    parts = [
        setting(curves, options.seeds, options.workers, options.trials),
        value_table(replays),
        record_table(replays),
        answer(replays),
        limits(curves),
    ]
    if options.check is not None:
        spent = options.check * curves.epochs
        parts.append(checked(_search(options, curves, spent), replays, spent))
    if options.out is not None:
        picture = options.out.with_name("quality.png")
        bands = {searcher: band(found) for searcher, found in replays.items()}
        replace_bytes(picture, draw(bands, oracle=best(curves)))
        parts.insert(1, f"![Best value against epochs spent, four searches]({picture.name})")
    return "\n\n".join(parts)


def _curves(options: argparse.Namespace) -> Curves:
    """Return the curves of the file that was named, or train them."""
    if options.curves is not None and options.curves.exists():
        return read_curves(options.curves)
    names = ("image_size", "width", "batch_size", "epochs")
    content = read_file(find_file(CONFIG))
    own = (content.get("train") or {}) | {name: getattr(options, name) for name in names}
    config = validate(TrainConfig, "train", own)
    asked = Asked(
        source=options.data,
        config=config,
        space=space.read(content["space"], config),
        folder=user_path(options.folder),
        count=options.configurations,
        jobs=options.jobs,
    )
    curves = train_curves(asked, say)
    if options.curves is not None:
        write_curves(options.curves, curves)
    return curves


def _search(options: argparse.Namespace, curves: Curves, budget: int) -> dict[Searcher, Found]:
    source = options.data
    if Path(source).name != curves.shared.data:
        raise InputError(
            f"the curves are of {curves.shared.data}; name its folder with --data, got {source}"
        )
    asked = RealSearches(
        config=CONFIG,
        source=source,
        train=curves.config,
        folder=user_path(options.folder) / "check",
        budget=budget,
        jobs=options.jobs,
    )
    return {searcher: search_within(asked, searcher) for searcher in (SEARCHERS[0], RANDOM)}


def setting(curves: Curves, seeds: int, workers: int, trials: int) -> str:
    """Say what was trained and what was replayed."""
    train, budget = curves.config, trials * curves.epochs
    return (
        f"{len(curves.curves)} configurations, the baseline and a scrambled Sobol sequence in the "
        f"space of `{CONFIG}` ({', '.join(curves.space)}), were trained once for {train.epochs} "
        f"epochs without early stopping on {curves.shared.data} ({curves.shared.images} training "
        f"images, {train.image_size} px, width {train.width:g}, batch {train.batch_size}). On "
        f"their curves each search ran with {seeds} seeds and {workers} workers, with the "
        "project's own sampler and stopping rules, until all its trials together had spent "
        f"{budget:,} epochs, the compute of {trials} full trials; a proposal was answered with "
        "the curve of the nearest configuration. A search's value is that of the best trial so "
        f"far: the smallest median of up to {WINDOW} epochs' `{QUALITY}` after the first "
        f"{curves.grace}. Smaller is better. Medians over the seeds, with 10 % and 90 % quantiles:"
    )


def value_table(replays: Replays) -> str:
    """Return the best value of each search at some shares of the compute."""
    rows = []
    for searcher, found in replays.items():
        values, budget = band(found), len(found[0].best)
        cells = [values.at(math.ceil(share * budget)) for share in SHARES]
        rows.append([searcher.name, f"{np.median([each.trials for each in found]):.0f}", *cells])
    return table(["search", "trials begun", *map(percent, SHARES)], rows)


def record_table(replays: Replays) -> str:
    """Return how each search stands against random search alone."""
    target = _target(replays)
    rows = []
    for searcher, found in replays.items():
        against = record(found, replays[RANDOM])
        beaten = ["–"] * 3
        if searcher != RANDOM:
            beaten = [against.better_share, against.equal_share, against.worse_share]
        rows.append([searcher.name, *beaten, _epochs(epochs_to(band(found), target))])
    header = ["against random alone, at 100 %", "better (95 % interval)", "equal", "worse"]
    return table([*header, f"epochs to its final median, {target:,.0f}"], rows)


def _target(replays: Replays) -> float:
    return float(band(replays[RANDOM]).median[-1])


def _epochs(count: float) -> str:
    return f"{count:,.0f}" if math.isfinite(count) else "not reached"


def answer(replays: Replays) -> str:
    """Say in two sentences whether the default search is the better one."""
    default, alone = replays[SEARCHERS[0]], replays[RANDOM]
    against = record(default, alone)
    ours, theirs = (epochs_to(band(found), _target(replays)) for found in (default, alone))
    faster = (
        f"comes to random search's final median in {ours:,.0f} epochs, which random search "
        f"needs {theirs:,.0f} for ({theirs / ours:.1f} times as many)"
        if math.isfinite(ours)
        else "does not come to random search's final median"
    )
    return (
        f"{SEARCHERS[0].name} {faster}. At the end it is better with {against.better_share} of "
        f"the seeds, equal with {against.equal_share} and worse with {against.worse_share}."
    )


def best(curves: Curves) -> float:
    """Return the value that no replay can beat."""
    return min(curves.values(JUDGED))


def limits(curves: Curves) -> str:
    """Say what a replay on so few curves cannot show."""
    count, values = len(curves.curves), curves.values(JUDGED)
    return (
        f"The baseline has {values[0]:,.0f}, the best of the {count} configurations "
        f"{best(curves):,.0f}, and real images {curves.shared.floor:,.0f}. No replay can find "
        f"better than the best of the {count}, and proposals near each other get one and the same "
        "curve where a real search would train anew: both hold back TPE, which crowds its "
        "proposals where it found the best, more than random search. Each configuration was "
        "trained with one seed, so that a part of its value is luck: the rank correlation of a "
        f"configuration's value with that of its nearest neighbour is "
        f"{neighbour_correlation(curves):.2f}."
    )


def neighbour_correlation(curves: Curves) -> float:
    """Return Spearman's correlation of each value with that of the nearest other configuration."""
    points, values = Answers(curves).points, np.array(curves.values(JUDGED))
    squares = ((points[:, None] - points) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    return float(spearmanr(values, values[squares.argmin(1)]).statistic)


def checked(found: Mapping[Searcher, Found], replays: Replays, spent: int) -> str:
    """Say what real searches found for so many epochs, and the replays for as many."""
    each = "; ".join(
        f"{searcher.name} {result.value:,.0f} with {result.trials} trials of {result.epochs:,} "
        f"epochs in all{_replayed(replays[searcher], spent)}"
        for searcher, result in found.items()
    )
    return f"One real search each (`python -m search.run`, seed 0, best finished trial): {each}."


def _replayed(replays: Sequence[Replay], spent: int) -> str:
    """Return the replays' value after so many epochs; nothing where they are shorter."""
    values = band(replays)
    return f" (replays: {values.at(spent)})" if spent <= len(values.median) else ""


main = benchmark(_parser, _measure)

if __name__ == "__main__":
    main()
