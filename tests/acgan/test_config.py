from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, Literal, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from acgan.command import command_parser
from acgan.config import (
    FILE_LIMIT_BYTES,
    MOST_NAMES,
    SECTIONS,
    Section,
    TrainConfig,
    add_flags,
    cache_folder,
    derive_seed,
    find_file,
    nearest_name,
    read_file,
    resolve,
    user_path,
    validate,
)
from acgan.errors import InputError
from search.settings import SearchConfig
from selection.settings import SelectionConfig


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "some.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def build(section: dict[Any, Any] | None = None, **flags: Any) -> TrainConfig:
    return resolve(TrainConfig, "train", section, flags)


def refusal(section: dict[Any, Any]) -> str:
    with pytest.raises(InputError) as caught:
        build(section)
    return one_sentence(str(caught.value))


def file_refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_file(write(folder, content))
    return one_sentence(str(caught.value))


def one_sentence(message: str) -> str:
    assert message
    assert "\n" not in message
    return message


def test_the_defaults_are_the_published_baseline() -> None:
    config = TrainConfig()
    published = {
        "image_size": 112,
        "width": 1,
        "latent_size": 100,
        "embedding_size": 100,
        "dropout": 0.5,
        "batch_size": 64,
        "epochs": 388,
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "adam_epsilon": 1e-7,
        "label_smoothing": 0.2,
        "shear_degrees": 0.1,
        "zoom": 0.1,
    }
    assert {key: getattr(config, key) for key in published} == published


def test_the_environment_wins_over_the_file_and_a_flag_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = {"epochs": 1, "batch_size": 4, "seed": 7}
    assert build(section).epochs == 1
    monkeypatch.setenv("ACGAN_TRAIN_EPOCHS", "2")
    monkeypatch.setenv("ACGAN_TRAIN_BATCH_SIZE", "8")
    monkeypatch.setenv("ACGAN_SEARCH_EPOCHS", "99")
    config = build(section, epochs="3", width=None, config="no field of this section")
    assert (config.epochs, config.batch_size, config.seed, config.width) == (3, 8, 7, 1.0)


def test_a_section_that_is_missing_or_empty_is_the_baseline(tmp_path: Path) -> None:
    assert read_file(write(tmp_path, "")) == {}
    assert build(read_file(write(tmp_path, "train:\n")).get("train")) == TrainConfig()


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    content = read_file(write(tmp_path, "train: {learning_rate: 1e-3, adam_epsilon: 1E-8}"))
    config = build(content["train"])
    assert (config.learning_rate, config.adam_epsilon) == (1e-3, 1e-8)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_an_unknown_key_names_the_nearest() -> None:
    assert "'train.learning_rat'; did you mean 'learning_rate'?" in refusal({"learning_rat": 1})
    words = refusal({"qqqqqqqq": 1})
    assert f"; of the {len(TrainConfig.model_fields)} known: " in words
    assert words.count(", ") == MOST_NAMES


def test_an_unknown_key_of_the_environment_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACGAN_TRAIN_EPOCH", "2")
    assert "did you mean 'epochs'?" in refusal({})


def test_an_unknown_section_names_the_nearest(tmp_path: Path) -> None:
    assert "unknown section 'trian'; did you mean 'train'?" in file_refusal(tmp_path, "trian: {}")
    for name in SECTIONS:
        read_file(write(tmp_path, f"{name}:"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dropout", 1),
        ("dropout", -0.1),
        ("batch_size", 1),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", "many"),
        ("epochs", None),
        ("epochs", [1]),
        ("epochs", {}),
        ("learning_rate", 0),
        ("learning_rate", "nan"),
        ("learning_rate", float("inf")),
        ("beta1", 1),
        ("zoom", ""),
        ("seed", -1),
        ("val_fraction", 1.0),
        ("image_size", 8),
        ("image_size", 4096),
        ("width", float("nan")),
    ],
)
def test_a_bad_value_is_named_with_its_key(key: str, value: object) -> None:
    message = refusal({key: value})
    assert message.startswith(f"configuration key 'train.{key}': ")
    assert message.endswith(f", got {value!r}")


class Kinds(Section):
    whole: int = 1
    share: float | None = Field(None, gt=0, lt=1)
    on: bool = True
    name: Literal["a", "b"] = "a"
    text: str = Field("x", min_length=1)
    many: tuple[int, ...] = (1, 2)
    any: tuple[bool | int | str, ...] = Field((1, "x"), min_length=2)

    @field_validator("whole")
    @classmethod
    def _even(cls, value: int) -> int:
        if value == 2:
            raise ValueError("must be odd")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.on and self.whole == 5:
            raise ValueError(f"whole must not be 5 where on is false, got {self.whole}")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"whole": "x"}, "'k.whole': must be a whole number, got 'x'"),
        ({"whole": 1.5}, "'k.whole': must be a whole number, got 1.5"),
        ({"whole": None}, "'k.whole': must be a whole number, got None"),
        ({"whole": True}, "'k.whole': must be a whole number, got True"),
        ({"whole": "9" * 30}, f"'k.whole': must be less than 2^63, got {'9' * 30}"),
        ({"whole": " 2 "}, "'k.whole': must be odd, got 2"),
        ({"share": "x"}, "'k.share': must be a number, got 'x'"),
        ({"share": False}, "'k.share': must be a number, got False"),
        ({"share": "1"}, "'k.share': must be less than 1, got 1"),
        ({"share": "nan"}, "'k.share': must be a finite number, got 'nan'"),
        ({"on": "x"}, "'k.on': must be true or false, got 'x'"),
        ({"name": "c"}, "'k.name': must be 'a' or 'b', got 'c'"),
        ({"text": 3}, "'k.text': must be a text, got 3"),
        ({"text": ""}, "'k.text': must have at least 1 character, got ''"),
        ({"many": 3}, "'k.many': must be a list, each a whole number, got 3"),
        ({"many": [1, "x"]}, "'k.many.1': must be a whole number, got 'x'"),
        ({"any": [1]}, "'k.any': must have at least 2 items, got [1]"),
        ({"any": [1, []]}, "'k.any.1': must be true or false, a whole number, a text, got []"),
        ({"on": 0, "whole": 5}, "'k': whole must not be 5 where on is false, got 5"),
    ],
)
def test_a_message_speaks_of_the_fields_own_type_and_says_a_value_once(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        validate(Kinds, "k", values)
    assert str(caught.value) == f"configuration key {message}"


@pytest.mark.parametrize("model", [TrainConfig, SearchConfig, SelectionConfig])
@pytest.mark.parametrize("value", [True, "x", "", "-1", "1e999", 2.5, None, [], {"a": 1}, 10**30])
def test_no_field_of_any_section_tells_a_value_twice_or_in_the_librarys_words(
    model: type[Section], value: object
) -> None:
    for name in model.model_fields:
        with contextlib.suppress(InputError):
            validate(model, "k", {name: value})
            continue
        with pytest.raises(InputError) as caught:
            validate(model, "k", {name: value})
        message = one_sentence(str(caught.value))
        assert message.count(", got ") == 1
        assert not re.search("nput should|valid|unable|parse", message)


def test_a_switch_is_no_number_in_any_section() -> None:
    for key in ("seed", "epochs", "learning_rate", "val_fraction"):
        assert refusal({key: True}).endswith(", got True")
    assert build({"class_balanced": True}).class_balanced


def test_a_key_that_is_no_name_is_refused() -> None:
    assert "train.1" in refusal({1: 2})


@pytest.mark.parametrize(("wrong", "hint"), [(17, 16), (40, 32), (111, 96), (1023, 1008)])
def test_an_image_size_that_is_no_multiple_of_16_is_refused(wrong: int, hint: int) -> None:
    assert f"multiple of 16, for example {hint}, got {wrong}" in refusal({"image_size": wrong})


@pytest.mark.parametrize("key", ["epochs", "seed", "latent_size"])
def test_a_whole_number_beyond_64_bits_is_refused(key: str) -> None:
    assert getattr(build({key: 2**63 - 1}), key) == 2**63 - 1
    for value in (2**63, str(10**400)):
        assert "must be less than 2^63, got" in refusal({key: value})


@pytest.mark.parametrize("size", [16, 32, 64, 112, 1024])
def test_multiples_of_16_are_image_sizes(size: int) -> None:
    assert build({"image_size": size}).image_size == size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("train: {epochs: 1}\ntrain: {epochs: 2}", "line 2: key 'train' stands twice"),
        ("train:\n  epochs: 1\n  epochs: 1", "line 3: key 'epochs' stands twice"),
        ("train: &a {epochs: 1}\nspace: *a", "line 2: YAML aliases"),
        ("train: {epochs: !!python/object/apply:os.getcwd []}", "line 1: YAML aliases"),
        ("train: !!python/name:os.system", "tags (!name) are not allowed"),
        ("train: {seed: !!timestamp x}", "tags (!name) are not allowed"),
        ("train: {seed: !!int ''}", "tags (!name) are not allowed"),
        ("!!map [a, b]", "tags (!name) are not allowed"),
        ("train: [1, 2]", "section 'train' must hold"),
        ("train: 3", "section 'train' must hold"),
        ("data: [1]", "'data' must be 'phantom' or the path"),
        ("- train", "must hold sections"),
        ("train", "must hold sections"),
        ("? [a, b]\n: c", "line 1: a key must be a name"),
        ("train:\n  1: 2", "line 2: a key must be a name"),
        ("train: {2001-01-01: 2}", "'2001-01-01' is a timestamp in YAML; put it in quotes"),
        ("train: {<<: {epochs: 1}}", "'<<' is a merge in YAML"),
        ("data: =", "'=' is a value in YAML"),
        ("train: {", "not a YAML file"),
        ("train: {}\na: b: c", "line 2: mapping values are not allowed here"),
        ("train: {}\n---\ntrain: {}", "not a YAML file"),
        ("train: {seed: " + "9" * 5000 + "}", "a number has at most 40 characters"),
        ("train: {seed: 0x" + "f" * 5000 + "}", "a number has at most 40 characters"),
        ("train: {seed: " + "1:" + "59:" * 200 + "1.5}", "a number has at most 40 characters"),
        ("train: {seed: 0b_}", "not a YAML file"),
        ("data: 2001-99-99", "'2001-99-99' is a timestamp in YAML"),
        ("[" * 2_000, "not a YAML file"),
        ("{a: " * 5_000, "not a YAML file"),
        (b"\x00\x01\x02", "not a YAML file"),
        (b"\xff\xfe\x00", "not a YAML file"),
        (b"\x89PNG\r\n\x1a\n", "not a YAML file"),
        (b"PK\x03\x04" * 100, "not a YAML file"),
        (b"#" * (2 * FILE_LIMIT_BYTES), "at most 100 KB"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    message = file_refusal(tmp_path, content)
    assert reason in message
    assert "some.yaml" in message


def test_a_message_shows_the_beginning_of_what_is_long(tmp_path: Path) -> None:
    values = "[" + "a, " * 10_000 + "]"
    for content in (f"data: {values}", f"{'a' * 10_000}: 1", f"? {'a' * 100}\n" * 2):
        assert len(file_refusal(tmp_path, content)) < 600
    assert len(refusal({"epochs": "x" * 10_000})) < 600
    names = ", ".join(TrainConfig.model_fields)
    assert len(refusal({"x" * 10_000: 1})) < len(names) + 300


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="at most 100 KB"):
        read_file(Path("/dev/zero"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        read_file(tmp_path)


ANY_BYTES = st.binary(max_size=200)
YAML_LIKE = st.text(alphabet="abtrin:{}[]()!&*<>|?-=%@`'\"#,. \n\t0123456789_+\\~é", max_size=80)
MAPPINGS = st.builds("{}: {{{}: {}}}".format, st.sampled_from(SECTIONS), YAML_LIKE, YAML_LIKE)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ANY_BYTES | (YAML_LIKE | MAPPINGS).map(str.encode))
def test_any_file_gives_sections_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    try:
        sections = read_file(write(tmp_path, content))
    except InputError as error:
        one_sentence(str(error))
    else:
        assert set(sections) <= set(SECTIONS)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(TrainConfig.model_fields)) | st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        max_size=3,
    )
)
def test_any_section_gives_a_configuration_or_an_input_error(section: dict[str, Any]) -> None:
    try:
        config = build(section)
    except InputError as error:
        one_sentence(str(error))
    else:
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", ["demo", "small", "covidx", "covidx-modern", "covidx-extended"])
def test_the_packaged_files_are_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = find_file(Path("configs") / f"{name}.yaml")
    assert path.is_absolute()
    build(read_file(path).get("train"))


def test_a_file_that_is_there_goes_before_a_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("configs/demo.yaml")
    own.parent.mkdir()
    own.touch()
    assert find_file(own) == own
    assert find_file(Path("elsewhere/demo.yaml")) == Path("elsewhere/demo.yaml")


@pytest.mark.parametrize("name", ["a" * 1000, "a\0b", "~nobody-of-this-name/x", "caf\udce9"])
def test_what_can_be_no_path_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match="can be no path") as caught:
        user_path(name)
    assert one_sentence(str(caught.value)).isprintable()


def test_a_typed_path_is_absolute_whether_it_is_there_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/someone")
    (tmp_path / "file").touch()
    for name in ("file", "file/below", "nowhere", "é"):
        assert user_path(name) == tmp_path / name
    assert user_path("~/x") == Path("/home/of/someone/x")


def test_a_file_whose_name_is_too_long_is_refused() -> None:
    for name in ("a" * 1000, f"configs/{'a' * 1000}"):
        with pytest.raises(InputError, match="File name too long"):
            read_file(find_file(Path(name)))


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "epoch", 1) == 3808558412218152728
    assert derive_seed(0, "epoch", 2) != derive_seed(0, "epoch", 1)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("1") != derive_seed(1)


@given(st.lists(st.integers() | st.text() | st.floats(), max_size=4))
def test_seeds_are_63_bit_and_depend_on_the_parts_alone(parts: list[object]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert derive_seed(*parts) == seed


def test_names_far_from_all_known_ones_list_them() -> None:
    assert nearest_name("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert nearest_name("zzz", ["seed", "epochs"]) == "; known: epochs, seed"


class Sample(Section):
    many_words: int = Field(1, description="100 % of it")
    on: bool = True
    hidden: int = 0


def sample_flags(*argv: str) -> dict[str, Any]:
    parser = command_parser("some.command", None)
    add_flags(parser, Sample, "sample", skip={"hidden"})
    assert "100 % of it [1]" in parser.format_help()
    return vars(parser.parse_args(argv))


def test_every_field_has_a_flag_and_one_not_given_says_nothing() -> None:
    parser = command_parser("some.command", None)
    add_flags(parser, TrainConfig, "training")
    flags = vars(parser.parse_args([]))
    assert flags == dict.fromkeys(TrainConfig.model_fields)
    assert resolve(TrainConfig, "train", {}, flags) == TrainConfig()


def test_flags_set_their_fields() -> None:
    flags = sample_flags("--many-words", "5", "--no-on")
    assert flags == {"many_words": "5", "on": False}
    assert resolve(Sample, "sample", {"on": True}, flags) == Sample(many_words=5, on=False)
    assert resolve(Sample, "sample", {"on": False}, sample_flags("--on")).on


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ACGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "acgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "acgan"
