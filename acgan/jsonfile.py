"""JSON files of a fixed form: written whole or not at all, and read whole or refused."""

import stat
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.errors import InputError
from acgan.files import replace_text


class Stored(BaseModel):
    """What a file or a line of one holds: these fields and no others, and any number."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


StoredT = TypeVar("StoredT", bound=BaseModel)


def read_json(model: type[StoredT], path: Path, *, remedy: str) -> StoredT | None:
    """Return a file's content; None where there is none.

    Raises `InputError` for a damaged file, and for what is not a file; it ends in the remedy.
    """
    damaged = f"{path} is damaged; {remedy}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(damaged)
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise InputError(damaged) from error


def write_json(path: Path, content: BaseModel) -> None:
    """Write a file so that it is there whole or not at all."""
    replace_text(path, content.model_dump_json(indent=1) + "\n")
