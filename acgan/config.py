"""Every hyperparameter and seed of one AC-GAN training run, and how a configuration is read.

The defaults of `TrainConfig` are the published baseline. A configuration file holds differences:

    data: phantom            # or a folder of images, see acgan.data.layouts
    train: {image_size: 32}  # fields of TrainConfig
    space: {}                # search.study.space
    search: {}               # search.settings
    selection: {}            # selection.settings

Values are taken from the file, then from the environment (`ACGAN_TRAIN_IMAGE_SIZE=32`), then from
the command line (`--image-size 32`); the later one wins.
"""

import argparse
import difflib
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from acgan.command import Parser
from acgan.errors import InputError
from acgan.streams import without_passwords

SECTIONS = ("data", "train", "space", "search", "selection")
FILE_LIMIT_BYTES = 100_000  # five seconds of the parser, 80 MB of memory
NUMBER_LIMIT = 40  # characters
SHOWN_LIMIT = 200  # characters
MOST_NAMES = 8  # in a message

# What a value of a type is called in a message.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_OF_TYPE = ("_type", "_parsing", "_parsing_size", "_from_float")  # ends of pydantic's error types

_NUMBERS = frozenset(("int", "float"))
_SCALARS = _NUMBERS | {"str", "bool", "null"}  # not timestamps, nor the merge key <<


class Section(BaseModel):
    """One section of a configuration: typed, frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"must be {kind_of(annotation)}")
        return value

    @field_validator("*")
    @classmethod
    def _without_password(cls, value: object) -> object:
        if isinstance(value, str) and without_passwords(value) != value:
            raise ValueError("must be no address with a password")
        return value

    @field_validator("*")
    @classmethod
    def _of_64_bits(cls, value: object) -> object:
        if isinstance(value, int) and value >= 2**63:
            raise ValueError("must be less than 2^63")
        return value


FINEST_PART = 0.0001  # what Ray counts in


def _no_finer(value: float | None) -> float | None:
    if value and value < FINEST_PART:
        raise ValueError(f"must be at least {FINEST_PART}, the finest part that can be set aside")
    return value


def _of_whole_gpus(value: float | None) -> float | None:
    if value and value > 1 and not value.is_integer():
        raise ValueError("must be a part of one GPU, such as 0.5, or a whole number")
    return value


# What is set aside for a trial or a task: parts of cores; GPUs, or a part of one.
Cpus = Annotated[float, Field(gt=0), AfterValidator(_no_finer)]
Gpus = Annotated[
    float | None, Field(ge=0), AfterValidator(_no_finer), AfterValidator(_of_whole_gpus)
]


def _listed(value: object) -> object:
    """Return a text, or each of a list, cut at commas: as it is typed after a flag."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        return value
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed), PlainSerializer(list)]
"""A list that may be typed with commas, or by giving its flag several times; a list in JSON."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _plain_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_NAME.fullmatch, value)) or len(set(value)) < len(value):
        raise ValueError("must be different names of letters, digits, '_', '.' and '-'")
    return value


PUBLISHED = "published"  # the networks of the paper


class TrainConfig(Section):
    """Hyperparameters and seeds of one training run; the defaults are the published baseline."""

    networks: str = Field(
        PUBLISHED, min_length=1, description="whose networks: published, or a plug-in's"
    )
    numbers: Annotated[Texts, AfterValidator(_plain_names)] = Field(
        (), description="plug-ins' numbers that each epoch records as val/NAME"
    )
    colour: Literal["auto", "grey", "rgb"] = Field(
        "auto", description="how images are read: auto (in colour if most have any), grey, rgb"
    )
    image_size: int = Field(112, ge=16, le=1024, description="pixels a side, a multiple of 16")
    width: float = Field(1.0, gt=0, le=8, description="factor on every hidden channel count")
    latent_size: int = Field(100, ge=1, description="length of the latent z ~ U(-1, 1)")
    embedding_size: int = Field(100, ge=1, description="length of the label embedding")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the discriminator")
    batch_size: int = Field(64, ge=2, description="real images per step (and as many generated)")
    epochs: int = Field(388, ge=1, description="passes over the training images")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of a step's convolutions and products of matrices"
    )
    learning_rate: float = Field(2e-4, gt=0, description="Adam's step size")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first-moment decay")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second-moment decay")
    adam_epsilon: float = Field(1e-7, gt=0, description="added before bias correction, as in Keras")
    label_smoothing: float = Field(
        0.2, ge=0, lt=1, description="source labels move by U(0, this) towards the other side"
    )
    shear_degrees: float = Field(0.1, ge=0, lt=90, description="shear ~ U(-this, this) degrees")
    zoom: float = Field(0.1, ge=0, lt=1, description="zoom of each axis ~ U(1 - this, 1 + this)")
    # Options around the published step, all off: see acgan.gan.options.
    discriminator_rate: float = Field(
        1.0, gt=0, description="the discriminator's step size, as a factor on learning_rate"
    )
    class_balanced: bool = Field(
        False, description="draw equally many real images of each class an epoch"
    )
    translation: float = Field(
        0.0, ge=0, lt=1, description="DiffAugment: shifts up to this share of a side; 0: off"
    )
    cutout: float = Field(
        0.0, ge=0, lt=1, description="DiffAugment: side of the square that is cut out; 0: off"
    )
    spectral_norm: bool = Field(
        False, description="spectral norm in the discriminator, in place of its BatchNorm"
    )
    r1_gamma: float = Field(0.0, ge=0, description="weight of the R1 penalty; 0: off")
    r1_every: int = Field(16, ge=1, description="steps between two R1 penalties, as much stronger")
    reacgan_head: bool = Field(
        False, description="ReACGAN's class head (D2D-CE) in place of the softmax"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="the generator kept is an average of this decay; 0: off"
    )
    mode_seeking: float = Field(
        0.0, ge=0, description="weight of the loss that pays for images that differ; 0: off"
    )
    grey: bool = Field(False, description="generate one channel, which all three colours show")
    upsampling: Literal["transposed", "nearest"] = Field(
        "transposed", description="how the generator doubles a side"
    )
    conditional_norm: bool = Field(
        False, description="a scale and shift for each class in the generator's BatchNorm"
    )
    real_classes: bool = Field(False, description="the class head learns from real images alone")
    hinge: bool = Field(False, description="hinge loss for the source in place of cross-entropy")
    generator_class_weight: float = Field(
        1.0, ge=0, description="weight of the class loss in the generator's"
    )

    seed: int = Field(0, ge=0, description="initial weights and every random draw of training")
    split_seed: int = Field(0, ge=0, description="which patients are validation patients")
    val_fraction: float | None = Field(
        None, gt=0, lt=1, description="validation patients; unset: 0.2 below 5,000 images, else 0.1"
    )
    evaluation_seed: int = Field(0, ge=0, description="latents and scoring CNN of every evaluation")
    grace_fraction: float = Field(
        0.1, ge=0, le=1, description="share of the epochs in which a run is young: not judged"
    )
    grace_updates: int = Field(150, ge=0, description="updates in which a run is young")
    samples_every: int = Field(1, ge=1, description="epochs between two sample grids")
    state_every: int = Field(1, ge=1, description="epochs between two resumable states")

    @field_validator("image_size")
    @classmethod
    def _multiple_of_16(cls, value: int) -> int:
        if value % 16:
            below = value // 16 * 16
            raise ValueError(f"must be a multiple of 16, for example {max(below, 16)}")
        return value


SectionT = TypeVar("SectionT", bound=Section)


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the nearest known name, or the known names.

    Of many known names, those that are least unlike.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(known) <= MOST_NAMES:
        return f"; known: {', '.join(known)}"
    least_unlike = sorted(difflib.get_close_matches(name, known, n=MOST_NAMES, cutoff=0))
    return f"; of the {len(known)} known: {', '.join(least_unlike)}, …"


class _Loader(yaml.SafeLoader):
    """YAML of plain values: no aliases (which grow without bound), tags or repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise self._refusal(
                event, "YAML aliases (*name) and tags (!name) are not allowed; write the value out"
            )
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        kind = node.tag.rpartition(":")[2]
        if kind not in _SCALARS:
            raise self._refusal(node, f"{node.value!r} is a {kind} in YAML; put it in quotes")
        if kind in _NUMBERS and len(node.value) > NUMBER_LIMIT:
            raise self._refusal(node, f"a number has at most {NUMBER_LIMIT} characters")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag.rpartition(":")[2] != "str":
                raise self._refusal(key, "a key must be a name; put it in quotes if it is one")
            if key.value in seen:
                raise self._refusal(key, f"key {shown(key.value)} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _refusal(self, place: Any, reason: str) -> InputError:
        return InputError(f"{self.name}, line {place.start_mark.line + 1}: {reason}")


def shown(value: object) -> str:
    """Return a value as it stands in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}…"


def read_file(path: Path) -> dict[str, Any]:
    """Read a configuration file into its sections, each still unvalidated.

    Raises `InputError` for a file that is missing or too large, no YAML mapping of plain values,
    or has an unknown section.
    """
    content = _read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold sections ({', '.join(SECTIONS)}), not a plain value")
    check_sections(content, str(path))
    return content


def check_sections(content: Mapping[str, Any], where: str) -> None:
    """Raise `InputError`, which says where, if these are not sections of a configuration."""
    for key, value in content.items():
        if key not in SECTIONS:
            raise InputError(f"{where}: unknown section {shown(key)}{nearest_name(key, SECTIONS)}")
        if key != "data" and not isinstance(value, Mapping | None):
            raise InputError(f"{where}: section {key!r} must hold 'name: value' lines")
    data = content.get("data")
    if not isinstance(data, str | Mapping | None):
        raise InputError(
            f"{where}: 'data' must be 'phantom' or the path of a folder, got {shown(data)}"
        )


def _read_yaml(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(raw) > FILE_LIMIT_BYTES:
        raise InputError(f"{path} is too large: a configuration has at most 100 KB")
    try:
        loader = _Loader(raw)
        loader.name = str(path)
        return loader.get_single_data()
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a YAML file that can be read: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Return an error of YAML as one line: the parser's own shows the text around it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def find_file(path: Path) -> Path:
    """Return the file a user named: as it is, else `configs/NAME` as it comes with the package."""
    if os.path.exists(path) or path.parent.name != "configs":  # False for a name too long to be one
        return path
    packaged = Path(__file__).parents[1] / "configs" / path.name
    return packaged if os.path.exists(packaged) else path


def user_path(text: str) -> Path:
    """Return the absolute path that a user typed, with ~ replaced.

    Raises `InputError` for one that no file can have, or that is not UTF-8 and so cannot stand in
    the JSON of a study.
    """
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever opens it says so
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shown(text)} can be no path ({reason}); name another one") from error
    return path


def resolve(
    model: type[SectionT], name: str, section: Mapping[str, Any] | None, flags: Mapping[str, Any]
) -> SectionT:
    """Build one section from the file's values, the environment's and the command line's.

    `flags` may hold more than this section's fields; a flag that was not given is None.
    """
    values = {
        **(section or {}),
        **_environment(name),
        **{k: v for k, v in flags.items() if k in model.model_fields and v is not None},
    }
    return validate(model, name, values)


def validate(model: type[SectionT], name: str, values: Mapping[str, Any]) -> SectionT:
    """Build a section from plain values; an `InputError` names the first bad key and why."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            key = ".".join(str(part) for part in (name, *first["loc"]))
            hint = nearest_name(str(first["loc"][-1]), model.model_fields)
            raise InputError(f"unknown configuration key {shown(key)}{hint}") from error
        # Behind the field and its items pydantic names the members of a union, one after another.
        items = [str(part) for part in first["loc"][1:] if isinstance(part, int)]
        key = ".".join((name, *map(str, first["loc"][:1]), *items))
        raise InputError(f"configuration key {key!r}: {_reason(model, first)}") from error


def _reason(model: type[Section], error: Mapping[str, Any]) -> str:
    """Say what must hold, in the words of the field's own type, and what was given."""
    if error["type"] == "missing":
        return "must be given"
    if not error["loc"]:  # a rule of several fields, which names the values that it concerns
        return str(error["msg"]).removeprefix("Value error, ")
    field = model.model_fields.get(str(error["loc"][0]))
    annotation = None if field is None else field.annotation  # a key that is no name has no field
    if error["type"].endswith(_OF_TYPE):
        depth = sum(isinstance(part, int) for part in error["loc"][1:])
        return f"must be {kind_of(annotation, depth=depth)}, got {shown(error['input'])}"
    rule = str(error["msg"]).removeprefix("Value error, ").partition(" after validation")[0]
    _, should, what = rule.partition(" should ")
    return f"{f'must {what}' if should else rule}, got {_as_typed(error, annotation)}"


def _as_typed(error: Mapping[str, Any], annotation: object) -> str:
    """Return a value that was read as its field's type as a person typed it, without quotes."""
    value: object = error["input"]
    of_number = annotation is not str and error["type"].startswith(("greater_", "less_", "value_"))
    if of_number and isinstance(value, str) and value.isprintable():
        typed = value.strip()
        return typed if 0 < len(typed) <= SHOWN_LIMIT else shown(value)
    return shown(value)


def kind_of(annotation: Any, *, depth: int = 0) -> str:
    """Return what values of a type are called; depth: 1 for the items of a list."""
    members = [each for each in get_args(annotation) if each not in (NoneType, ...)]
    if get_origin(annotation) is tuple:
        kinds = kind_of(members[0])
        return kinds if depth else f"a list, each {kinds}"
    if annotation in _KINDS:
        return _KINDS[annotation]
    return ", ".join(dict.fromkeys(kind_of(each) for each in members))


def _environment(name: str) -> dict[str, str]:
    prefixes = tuple(f"ACGAN_{section.upper()}_" for section in ("train", "search", "selection"))
    for key in os.environ:
        if key.startswith("ACGAN_") and key != "ACGAN_CACHE" and not key.startswith(prefixes):
            raise InputError(
                f"environment variable {key} is not known; those of a configuration begin with "
                f"{', '.join(prefixes)}"
            )
    prefix = f"ACGAN_{name.upper()}_"
    return {
        key.removeprefix(prefix).lower(): value
        for key, value in os.environ.items()
        if key.startswith(prefix)
    }


def add_flags(
    parser: Parser,
    model: type[Section],
    title: str,
    *,
    skip: Collection[str] = (),
    common: Collection[str] | None = None,
) -> None:
    """Add one `--flag` for each field of a section; a flag that is not given stays None.

    common: the fields that `--help` shows; of all others only `--help-all` tells (None: none are)
    """
    text = f"{title} [default where the configuration file says nothing]"
    group = parser.add_argument_group(text)
    rare = []
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        added = group.add_argument(
            "--" + name.replace("_", "-"), default=None, help=_flag_help(field), **_flag_kind(field)
        )
        if common is not None and name not in common:
            rare.append(added)
    if rare:
        parser.hide(rare)


def _flag_help(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    elif isinstance(default, bool):
        default = "yes" if default else "no"
    shown_default = "" if default in (None, "") else f" [{default}]"
    return f"{field.description or ''}{shown_default}".replace("%", "%%")


def _flag_kind(field: FieldInfo) -> dict[str, Any]:
    """Return how argparse shows the values of a field, which `validate` then reads."""
    annotation: Any = field.annotation
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(annotation) is Literal:
        return {"metavar": "{" + ",".join(get_args(annotation)) + "}"}
    kinds = {annotation, *get_args(annotation)} - {NoneType}
    if get_origin(annotation) is tuple and str in kinds:
        return {"metavar": "TEXT,TEXT", "action": "append"}
    if get_origin(annotation) is tuple:
        return {"metavar": "INT,INT"}
    return {"metavar": "INT" if int in kinds else "NUM" if float in kinds else "TEXT"}


def cache_folder() -> Path:
    """Return the folder of what can be made again; `InputError` for one that can be no path."""
    named = os.environ.get("ACGAN_CACHE")
    if named:
        return user_path(named)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "acgan"
