"""What one run leaves on disk, and how it survives being killed at any instant.

    config.json                        the resolved configuration, classes and data fingerprint
    owner.json                         the one process that may write
    epochs.jsonl                       one record a line
    state.safetensors                  networks and optimizers after the last committed epoch
    state.previous.safetensors         the one before, for when the last is damaged
    weights/epoch-0288.safetensors     generators kept as candidates
    samples/epoch-0288.png             sample grids; epoch-0000 is the untrained generator's
    machines.jsonl                     what each start was computed with, and from which epoch on

An epoch is committed when its state has replaced the last one; samples and weights are written
before, the line in `epochs.jsonl` after. `RunDir.restore` mends whatever a crash left between.

A process that dies slowly may still write beside the one that took the run over: it reads
`owner.json` between writing a file and putting it in place, and its lines go to the file that it
opened, which the new owner has replaced.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import socket
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.files import remove_leftovers, replace_bytes, replace_text, sync, write_beside
from acgan.run.records import EpochRecord, Ranking, read_records, weights_to_keep
from acgan.run.weights import checksum, read_weights, weights_bytes

log = logging.getLogger(__name__)


class NotOwnerError(RuntimeError):
    """Another process has taken this run over; this one must end without writing."""


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return {key: content[key] for key in ("train", "fingerprint")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; restore it, or name another folder") from error


def weights_name(epoch: int) -> str:
    """Return the path of an epoch's generator inside a run."""
    return f"weights/epoch-{epoch:04d}.safetensors"


class RunDir:
    """One run's directory. The process that claims it is the only one that writes.

    notes: what `restore` found damaged and what it did about it, one sentence each
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._attempt = ""
        self._lines = -1

    @property
    def epochs_path(self) -> Path:
        """The file of epoch records."""
        return self.path / "epochs.jsonl"

    @property
    def state_path(self) -> Path:
        """The state of the last committed epoch."""
        return self.path / "state.safetensors"

    @property
    def previous_state_path(self) -> Path:
        """The state before the last."""
        return self.path / "state.previous.safetensors"

    def weights_path(self, epoch: int) -> Path:
        """Return where the generator of an epoch is kept."""
        return self.path / weights_name(epoch)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the images that the run was begun with; "" where it says none."""
        with contextlib.suppress(InputError, OSError):
            return str(_read_config(self.path / "config.json")["fingerprint"])
        return ""

    def claim(self, config: TrainConfig, *, classes: Sequence[str], fingerprint: str) -> None:
        """Become the run's one writer, for this configuration and data.

        Raises `InputError` if the directory holds a run with another configuration or data set,
        or cannot be a run's.
        """
        train = config.model_dump()
        content = {"train": train, "classes": list(classes), "fingerprint": fingerprint}
        self._make_folders()
        if self.epochs_path.exists() and not self.epochs_path.is_file():
            raise InputError(f"{self.epochs_path} is damaged: it is no file; remove it")
        config_path = self.path / "config.json"
        if config_path.exists():
            self._refuse_other(_read_config(config_path), content)
        else:
            replace_text(config_path, json.dumps(content, indent=1) + "\n")
        self._attempt = uuid.uuid4().hex
        owner = {"attempt": self._attempt, "host": socket.gethostname(), "pid": os.getpid()}
        replace_text(self.path / "owner.json", json.dumps(owner) + "\n")
        self._write_lines(self.epochs_path.read_bytes() if self.epochs_path.exists() else b"")

    def _make_folders(self) -> None:
        try:
            for folder in (self.path, self.path / "weights", self.path / "samples"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be the folder of a run: {error.strerror}; name another folder"
            ) from error

    def _refuse_other(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        if there["fingerprint"] != wanted["fingerprint"]:
            raise InputError(f"{self.path} holds a run on other images; name another folder")
        train = TrainConfig().model_dump() | there["train"]  # fields that an older version lacked
        different = [
            f"{key}: {train[key]} → {value}"
            for key, value in wanted["train"].items()
            if train[key] != value
        ]
        if different:
            raise InputError(
                f"{self.path} holds a run with another configuration ({'; '.join(different)}); "
                "go back to it, or name another folder"
            )

    def check_owner(self) -> None:
        """Raise `NotOwnerError` if another process has claimed the run since."""
        try:
            owner = json.loads((self.path / "owner.json").read_bytes())
            attempt, by = owner["attempt"], f"process {owner['pid']} on {owner['host']}"
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            attempt, by = "", "nobody known: owner.json is damaged"
        if attempt != self._attempt:
            raise NotOwnerError(f"{self.path} was taken over by {by}")

    def restore(self) -> tuple[list[EpochRecord], dict[str, Tensor]] | None:
        """Return the committed records and the state after the last of them; None to start anew.

        Mends `epochs.jsonl`: adds the line of a state whose line is missing, drops the lines
        beyond the state. A damaged state gives way to the one before it, and this is logged.
        Removes the temporary files of a crash.
        """
        remove_leftovers(self.path)
        for path in (self.state_path, self.previous_state_path):
            state = self._read_state(path)
            if state is None:
                continue
            records = self._records_up_to(state[0])
            if records is None:
                continue
            if path != self.state_path:  # or the next commit would replace it by the damaged one
                os.replace(path, self.state_path)
            self._write_records(records)
            return records, state[1]
        if self.epochs_path.exists() and self.epochs_path.stat().st_size:
            self._note(f"{self.path} has no state that can be used: it starts again")
        self._write_lines(b"")
        return None

    def complete_lines(self) -> bool:
        """Write the last record anew from the state, for a run that has ended with a torn line.

        Returns whether that could be done; else nothing is written. It cannot where the state is of
        an epoch before the last (`state_every`), whose line is whole.
        """
        state = self._read_state(self.state_path)
        records = None if state is None else self._records_up_to(state[0])
        if records is None or len(read_records(self.epochs_path)) >= len(records):
            return False
        self._write_records(records)
        return True

    def _write_records(self, records: Sequence[EpochRecord]) -> None:
        lines = "".join(record.model_dump_json() + "\n" for record in records)
        self._write_lines(lines.encode())

    def _write_lines(self, lines: bytes) -> None:
        """Write the records anew, into a new file, and open it for those that follow."""
        replace_bytes(self.epochs_path, lines)
        self._lines = os.open(self.epochs_path, os.O_WRONLY | os.O_APPEND)
        weakref.finalize(self, os.close, self._lines)

    def _note(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self.notes.append(sentence)

    def _read_state(self, path: Path) -> tuple[EpochRecord, dict[str, Tensor]] | None:
        if not path.exists():
            return None
        try:
            tensors, metadata = read_weights(path)
            record = metadata["record"]
            if checksum(tensors, record) != metadata["checksum"]:
                raise ValueError("the checksum does not fit")
            return EpochRecord.model_validate_json(record), tensors
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            self._note(f"{path} is damaged ({error}) and is not used")
            return None

    def _records_up_to(self, last: EpochRecord) -> list[EpochRecord] | None:
        try:
            records = read_records(self.epochs_path)[: last.epoch - 1]
        except ValueError as error:
            self._note(str(error))
            return None
        numbered = all(record.epoch == number for number, record in enumerate(records, start=1))
        if len(records) != last.epoch - 1 or not numbered:
            self._note(f"{self.epochs_path} lacks records before epoch {last.epoch}")
            return None
        return [*records, last]

    def write_samples(self, epoch: int, png: bytes) -> str:
        """Write an epoch's sample grid; return its path inside the run."""
        name = f"samples/epoch-{epoch:04d}.png"
        self._put(self.path / name, png)
        return name

    def write_weights(self, epoch: int, content: bytes) -> str:
        """Write an epoch's generator, return its SHA-256; `prune_weights` decides on its stay."""
        self._put(self.weights_path(epoch), content)
        return hashlib.sha256(content).hexdigest()

    def _put(self, path: Path, content: bytes) -> None:
        self.check_owner()
        os.replace(self._written_beside(path, content), path)
        sync(path.parent)

    def _written_beside(self, path: Path, content: bytes) -> Path:
        """Write what will be put in place of `path`; checks again, as that may take long."""
        fresh = write_beside(path, content)
        try:
            self.check_owner()
        except NotOwnerError:
            fresh.unlink(missing_ok=True)
            raise
        return fresh

    def commit(self, record: EpochRecord, state: Mapping[str, Tensor] | None) -> None:
        """Commit an epoch: replace the state (None: only the record is due), add the record.

        Raises `NotOwnerError`, and then has written nothing.
        """
        self.check_owner()
        if state is not None:
            self._replace_state(record, {k: v.detach().cpu() for k, v in state.items()})
        line = record.model_dump_json().encode() + b"\n"
        if os.write(self._lines, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.epochs_path))
        os.fsync(self._lines)

    def _replace_state(self, record: EpochRecord, state: Mapping[str, Tensor]) -> None:
        text = record.model_dump_json()
        metadata = {"record": text, "checksum": checksum(state, text)}
        fresh = self._written_beside(self.state_path, weights_bytes(state, metadata))
        if self.state_path.exists():
            os.replace(self.state_path, self.previous_state_path)
        os.replace(fresh, self.state_path)
        sync(self.path)

    def prune_weights(self, records: Sequence[EpochRecord], ranking: Ranking) -> None:
        """Delete the weights of epochs that are no candidates and cannot become any."""
        keep = weights_to_keep(records, ranking)
        for epoch in self.kept_weights():
            if epoch not in keep:
                self.weights_path(epoch).unlink()

    def kept_weights(self) -> list[int]:
        """Return the epochs whose weights are there; files of other names are passed over."""
        found = []
        for path in (self.path / "weights").glob("epoch-*.safetensors"):
            match = re.fullmatch(r"epoch-(\d{4,})\.safetensors", path.name)
            if match and path == self.weights_path(int(match[1])) and path.is_file():
                found.append(int(match[1]))
        return found
