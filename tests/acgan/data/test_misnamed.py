"""Names that are nearly those of files: what is certain, what is not, and what is said."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.data.folders import files_below
from acgan.data.misnamed import Folder, Mend, likeliest

CLASSES = {"covid": "COVID-19", "normal": "normal"}
NORMAL = frozenset(("normal",))


def meant(files: list[str], *names: str, taken: tuple[str, ...] = ()) -> dict[str, str]:
    return Folder("train", files).meant(dict.fromkeys(names, NORMAL), taken, CLASSES)


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("a.JPG", "a.jpg", "letter case of the ending"),
        ("a.jpg", "a.JpG", "letter case of the ending"),
        ("train/a.png", "a.png", "train/ before the name"),
        ("data/train/a.png", "a.png", "train/ before the name"),
        ("./train/a.png", "a.png", "train/ before the name"),
        ("a.png", "images/a.png", "one folder deeper"),
        ("a.png", "normal/a.png", "one folder deeper"),
        ("x/a.png", "images/x/a.png", "one folder deeper"),
        ("x\\a.png", "x/a.png", "backslashes"),
        ("caf\u00e9.png", "cafe\u0301.png", "Unicode form"),
        ("cafe\u0301.png", "caf\u00e9.png", "Unicode form"),
        ("train\\a.PNG", "x/a.png",
         "backslashes, train/ before the name, letter case of the ending, one folder deeper"),
    ],
)  # fmt: skip
def test_what_is_certain_is_found_and_told(name: str, file: str, how: str) -> None:
    assert meant([file, "b.png"], name) == {name: file}
    assert Folder("train", [file]).how(name, file) == how


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("A.png", ["a.png"]),
        ("a.jpeg", ["a.jpg"]),
        ("a", ["a.png"]),
        ("a.png", ["x/y/a.png"]),
        ("x/a.png", ["a.png"]),
        ("test/a.png", ["a.png"]),
        ("a.PNG", ["a.png", "a.Png"]),
        ("a.png", ["x/a.png", "y/a.png"]),
        ("a.PNG", ["a.png", "x/a.PNG"]),
        ("a.png", ["COVID/a.png"]),
        ("a.png", []),
    ],
)
def test_what_is_not_certain_is_left_as_it_is(name: str, files: list[str]) -> None:
    assert meant(files, name) == {}


def test_a_file_that_two_names_can_mean_is_nobodys() -> None:
    assert meant(["a.png"], "a.PNG", "a.Png") == {}
    assert meant(["a.png"], "a.PNG", taken=("a.png",)) == {}
    assert meant(["a.png"], "a.PNG", taken=("./a.png",)) == {}
    assert meant(["a.png"], "a.PNG", taken=("b.png",)) == {"a.PNG": "a.png"}


WAYS: tuple[Callable[[str], str], ...] = (
    lambda file: file,
    lambda file: f"train/{file}",
    lambda file: posixpath.splitext(file)[0] + posixpath.splitext(file)[1].swapcase(),
    lambda file: unicodedata.normalize("NFD", file),
    lambda file: file.replace("/", "\\"),
    lambda file: file.partition("/")[2] or file,
)
FILES = st.lists(
    st.from_regex(r"([ab\u00e9]/){0,2}[ab\u00e9]{1,2}\.(png|PNG|jpg)", fullmatch=True),
    unique=True,
    max_size=8,
)


@given(FILES, st.lists(st.tuples(st.integers(0, 7), st.sampled_from(WAYS)), max_size=8))
def test_no_name_gets_a_file_that_another_one_can_mean(
    files: list[str], drawn: list[tuple[int, Callable[[str], str]]]
) -> None:
    names = {way(files[number]) for number, way in drawn if number < len(files)}
    taken = tuple(names & set(files))
    found = meant(files, *sorted(names - set(taken)), taken=taken)
    assert len(set(found.values())) == len(found)
    assert not set(found.values()) & set(taken)
    folder = Folder("train", files)
    for name, file in found.items():
        assert folder.candidates(name) == [file]
        assert folder.how(name, file)


@given(FILES, st.sampled_from(WAYS[1:4]))
def test_names_that_are_all_wrong_in_one_way_are_all_mended(
    files: list[str], way: Callable[[str], str]
) -> None:
    flat = sorted({file.lower().replace("/", "") for file in files})
    names = {way(file): file for file in flat}
    assert meant(flat, *names) == names


@pytest.mark.parametrize(
    ("files", "unread", "hint"),
    [
        (["x/a.png", "y/a.png"], (), "can mean 'train/x/a.png' or 'train/y/a.png'; name the right"),
        (["covid/a.png"], (), "can mean 'train/covid/a.png', but another line"),
        ([], ["test/a.png"], "may be 'test/a.png'; correct the labels"),
        ([], ["test/a.png", "train/A.jpeg"], "may be 'train/A.jpeg'; correct the labels"),
        ([], ["train/b.png"], ""),
    ],
)
def test_the_hint_says_what_else_a_name_may_be(
    files: list[str], unread: list[str], hint: str
) -> None:
    said = likeliest(Folder("train", files), ["a.png"], unread)
    assert said.startswith("'a.png' ") if hint else not said
    assert hint in said


def test_the_hint_is_the_one_that_fits_most_names() -> None:
    unread = ["test/b.png", "test/c.png"]
    said = likeliest(Folder("train", ["x/a.png", "y/a.png"]), ["a.png", "b.png", "c.png"], unread)
    assert said.startswith("'b.png' may be 'test/b.png'")


def test_a_mend_is_told_without_the_name_of_a_file() -> None:
    mend = Mend("train.txt", "Unicode form", 1200, "named.png", "found.png")
    assert str(mend) == "file names mended in train.txt: 1,200 (Unicode form)"


def test_files_below_a_folder_are_visible_ones_inside_and_each_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in ("b/c.png", "a.png", ".hidden/d.png", "b/.e.png", "pool/f.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "b" / "again").symlink_to(root / "b")
    (root / "b" / "pool").symlink_to(root / "pool")
    (root / "b" / "out").symlink_to(tmp_path)
    assert list(files_below(root)) == ["a.png", "b/c.png", "b/pool/f.png"]
    assert list(files_below(root, "b")) == ["c.png", "pool/f.png"]
    assert list(files_below(root, "none")) == []
