"""What an epoch costs more where its study is in a bucket: its commit, beside its training.

One training, whose every epoch is brought to an object store as a trial of `search.run` brings it,
but before the next one is trained. Then the commit of one epoch at full size, of files of its sizes
that nothing has trained. Time is that of this process' threads; the server is another one.

    AWS_ENDPOINT_URL=… python -m benchmarks.bucket --storage-path s3://BUCKET/FOLDER
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acgan.command import command, run_command
from acgan.config import TrainConfig, find_file, read_file, validate
from acgan.data.pack import load_for
from acgan.data.source import PHANTOM, DataSource
from acgan.gan.networks import build_generator
from acgan.run.records import RANKING
from acgan.run.rundir import RunDir
from acgan.training import train
from benchmarks.report import benchmark_parser, publish, table
from search.plan import DEMO, FULL_SIZE
from search.study import estimate
from search.study.store.objects import ObjectStore
from search.study.store.runs import STATE, StoredRun

FIRST = 2  # epochs that are left out: what is made once is made in them


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    parser = benchmark_parser("bucket", __doc__)
    parser.add_argument("--storage-path", required=True, help="where in a bucket, s3://…")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the training")
    options = parser.parse_args(argv)
    return run_command(lambda: _run(options), resume="type the same command again")


def _run(options: argparse.Namespace) -> int:
    address = f"{options.storage_path.rstrip('/')}/bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as name, counted() as asked:
        config = _train_config(DEMO).model_copy(update={"epochs": options.epochs})
        trained, sent = _epochs(config, f"{address}/demo", Path(name) / "demo", asked)
        each, requests = options.epochs - FIRST, asked.copy()
        full = _full_size(f"{address}/full", Path(name) / "full", asked)
    rows = [
        ("trained, demo's size", trained, 0, 0),
        ("brought to the bucket, demo's size", sent, *_per(requests, each)),
        ("brought to the bucket, full size", full, *_per(asked, 1)),
    ]
    del requests[SENT]
    kinds = ", ".join(f"{count / each:.1f} {kind}" for kind, count in requests.most_common())
    whole = table(["an epoch", "processor s", "requests", "MB sent"], rows)
    publish("bucket", f"{whole}\n\nAn epoch's requests at the demo's size: {kinds}.", options.out)
    return 0


SENT = "bytes"


def _per(asked: Counter[str], epochs: int) -> tuple[float, float]:
    """Return the requests and the megabytes sent of an epoch."""
    requests = sum(number for kind, number in asked.items() if kind != SENT)
    return requests / epochs, asked[SENT] / epochs / 1e6


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what s3fs asks of a server, by kinds, and the bytes that it sends."""
    from s3fs import S3FileSystem  # noqa: PLC0415

    asked, call = Counter[str](), S3FileSystem._call_s3

    async def counting(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        asked[method] += 1
        asked[SENT] += len(options.get("Body", b""))
        return await call(self, method, *arguments, **options)

    S3FileSystem._call_s3 = counting
    try:
        yield asked
    finally:
        S3FileSystem._call_s3 = call


def _train_config(path: Path) -> TrainConfig:
    return validate(TrainConfig, "train", read_file(find_file(path))["train"])


def _epochs(
    config: TrainConfig, address: str, folder: Path, asked: Counter[str]
) -> tuple[float, float]:
    """Return the processor seconds of an epoch's training and of its commit: the medians."""
    data = load_for(DataSource(folder=PHANTOM), config)
    trained, sent = [], []
    with StoredRun(ObjectStore(address), "t0000", folder, ranking=RANKING, notes=[]) as stored:
        records = train(config, data, RunDir(stored.folder))
        for epoch in range(config.epochs):
            if epoch == FIRST:
                asked.clear()
            began = time.process_time()
            next(records)
            there = time.process_time()
            stored.send(stored.snapshot())
            trained.append(there - began)
            sent.append(time.process_time() - there)
    return statistics.median(trained[FIRST:]), statistics.median(sent[FIRST:])


def _full_size(address: str, folder: Path, asked: Counter[str]) -> float:
    """Commit an epoch of full size; return its processor seconds."""
    config = _train_config(DEMO).model_copy(update={"epochs": 1})
    data = load_for(DataSource(folder=PHANTOM), config)
    large = _train_config(FULL_SIZE)
    weights = 4 * sum(p.numel() for p in build_generator(large, len(data.classes)).parameters())
    state = estimate.epoch_bytes(large, len(data.classes)) - weights
    with StoredRun(ObjectStore(address), "t0000", folder, ranking=RANKING, notes=[]) as stored:
        next(train(config, data, RunDir(stored.folder)))
        files = {STATE: state, "weights/epoch-0001.safetensors": weights}
        for name, size in files.items():
            fresh = stored.folder / "fresh"
            fresh.write_bytes(os.urandom(size))
            fresh.replace(stored.folder / name)
        asked.clear()
        began = time.process_time()
        stored.send(stored.snapshot())
        return time.process_time() - began


if __name__ == "__main__":
    main()
