"""Where images are, and what a user says of the folder: one value from the flags to every node."""

import os
from argparse import Action
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_serializer, model_validator

from acgan.command import Parser
from acgan.config import Section, user_path, validate
from acgan.data.table import Reading
from acgan.errors import InputError

PHANTOM = "phantom"
HINTS = ("labels", "file_column", "label_column", "patient_pattern")


class DataSource(Section):
    """A folder of images, or "phantom", the built-in data; as text it is the folder alone.

    Of a plain text it is the folder of that name.
    """

    folder: str
    labels: str | None = Field(
        None, description="CSV or TSV file that names the images (default: the one beside them)"
    )
    file_column: str | None = Field(None, description="its column of file names (default: found)")
    label_column: str | None = Field(None, description="its column of classes (default: found)")
    patient_pattern: str | None = Field(
        None, description="regular expression whose one group is the patient in a file's name"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: object) -> object:
        return {"folder": value} if isinstance(value, str) else value

    @model_serializer
    def _to_text(self) -> str | dict[str, str]:
        hints = self.hints()
        return {"folder": self.folder, **hints} if hints else self.folder

    def __str__(self) -> str:
        """Return the folder."""
        return self.folder

    def hints(self) -> dict[str, str]:
        """Return what is said of the folder, by name."""
        return {name: value for name in HINTS if (value := getattr(self, name)) is not None}

    @property
    def reading(self) -> Reading:
        """What is said of the folder, for whoever reads it."""
        return Reading(**self.hints())

    @property
    def is_phantom(self) -> bool:
        """Whether these are the built-in images."""
        return self.folder == PHANTOM

    def flags(self) -> list[str]:
        """Return the flags that say the same of a folder."""
        pairs = (("--" + name.replace("_", "-"), text) for name, text in self.hints().items())
        return [word for pair in pairs for word in pair]

    @classmethod
    def of(cls, source: "DataSource | str") -> "DataSource":
        """Return a source as it is, or that of a folder's name."""
        return source if isinstance(source, DataSource) else cls(folder=source)


def add_data_flags(parser: Parser, text: str) -> None:
    """Add `--data`, of which `text` says what it is, and what can be said of the folder."""
    parser.bare = parser.bare or "--data"
    parser.add_argument("--data", metavar="DIR", help=text)
    parser.hide(add_hints(parser))


def add_hints(parser: Parser) -> list[Action]:
    """Add a flag for each thing that can be said of a data folder; return them."""
    group = parser.add_argument_group("how the data folder is read")
    added = []
    for name in HINTS:
        metavar = {"labels": "FILE", "patient_pattern": "PATTERN"}.get(name, "COLUMN")
        text = DataSource.model_fields[name].description
        flag = "--" + name.replace("_", "-")
        added.append(group.add_argument(flag, metavar=metavar, help=text))
    return added


def named_source(
    flags: Mapping[str, Any], content: Mapping[str, Any], *, default: DataSource | None = None
) -> DataSource:
    """Return the images named by `--data`, else by a configuration, else the default.

    What `--labels` and its like say comes before what the configuration says of the same folder.
    What the default says of its own holds also where its images lie in another folder now.
    Raises `InputError` where none names any, and for a name that can be no path.
    """
    known: dict[str, Any] = {} if default is None else {"folder": default.folder} | default.hints()
    named = content.get("data")
    if named:
        known = {"folder": named} if isinstance(named, str) else dict(named)
    if flags.get("data"):
        hints = {} if named or default is None else default.hints()
        known = {"folder": flags["data"], **hints}
    if not known.get("folder"):
        raise InputError("no images are named: give --data DIR, or --data phantom")
    known |= {name: flags[name] for name in HINTS if flags.get(name) is not None}
    source = validate(DataSource, "data", known)
    if source.is_phantom:
        return DataSource(folder=PHANTOM)
    folder = str(user_path(source.folder))
    labels = source.labels
    if labels is not None and not os.path.isfile(os.path.join(folder, labels)):
        labels = str(user_path(labels))  # beside nothing: nodes have another working directory
    return source.model_copy(update={"folder": folder, "labels": labels})
