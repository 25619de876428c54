"""Label files of all COVIDx versions, and every way in which they can be wrong."""

import contextlib
import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.data.label_files import SOURCES, parse_line, read_label_file
from acgan.data.layouts import read_table
from acgan.data.table import GENERATED, Table, unlabelled
from acgan.errors import InputError
from tests.folders import make_class_folders
from tests.kit import SHARED, needs_mini

LABELS = SHARED / "covidx-labels"
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="no published label files here")

# Counted with awk on the published files: the last word that is a class, the last word.
PUBLISHED = {
    "test_COVIDx.txt": ({"pneumonia": 100, "normal": 100, "COVID-19": 10}, {"unknown": 210}),
    "test_COVIDx5.txt": (
        {"normal": 100, "pneumonia": 100, "COVID-19": 100},
        {"unknown": 197, "cohen": 42, "actmed": 33, "sirm": 17, "fig1": 11},
    ),
    "test_COVIDx8A.txt": (
        {"COVID-19": 200, "normal": 100, "pneumonia": 100},
        {"rsna": 200, "ricord": 200},
    ),
    "test_COVIDx9A.txt": (
        {"COVID-19": 200, "normal": 100, "pneumonia": 100},
        {"rsna": 200, "ricord": 200},
    ),
    "test_COVIDx9B.txt": ({"positive": 200, "negative": 200}, {"rsna": 200, "ricord": 200}),
    "train_COVIDx8A.txt": (
        {"normal": 7966, "pneumonia": 5475, "COVID-19": 2158},
        {"rsna": 13389, "sirm": 943, "ricord": 896, "cohen": 322, "actmed": 25, "fig1": 24},
    ),
    "train_COVIDx9A.txt": (
        {"COVID-19": 16490, "normal": 8085, "pneumonia": 5555},
        {
            "stonybrook": 14132,
            "rsna": 13389 + 199,
            "sirm": 943,
            "ricord": 896,
            "cohen": 322,
            "bimcv": 200,
            "actmed": 25,
            "fig1": 24,
        },
    ),
}


def make_folder(folder: Path, train: list[str], test: list[str]) -> Path:
    """Write two label files and, for each line, an image file (that nothing here decodes)."""
    for split, lines in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
        for line in lines:
            (folder / split / line.split()[1]).write_bytes(line.encode())
    return folder


TRAIN = ["p1 a.png COVID-19 cohen", "p2 b.png normal rsna", "p3 c.png pneumonia rsna"]
TEST = ["p4 d.png COVID-19 cohen", "p5 e.png normal rsna", "p6 f.png pneumonia rsna"]


@needs_labels
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_label_file_has_the_classes_and_sources_counted_by_hand(name: str) -> None:
    lines = [line for _, line in read_label_file(LABELS / name)]
    classes, sources = PUBLISHED[name]
    assert Counter(line.class_name for line in lines) == classes
    assert Counter(line.source for line in lines) == sources


@needs_labels
def test_no_published_label_file_is_left_out_of_these_tests() -> None:
    assert {path.name for path in LABELS.glob("*.txt")} == set(PUBLISHED)


@needs_labels
def test_patient_ids_with_a_space_stay_whole() -> None:
    lines = [line for _, line in read_label_file(LABELS / "train_COVIDx8A.txt")]
    spaced = [line for line in lines if " " in line.patient]
    assert len(spaced) == 943
    assert spaced[0] == ("COVID 1", "COVID(1).png", "COVID-19", "sirm")


@needs_mini
def test_covidx_mini_has_the_numbers_of_its_description() -> None:
    table = read_table(SHARED / "covidx-mini")
    counts = Counter((row.split, row.class_name) for row in table.rows)
    assert [counts["train", name] for name in table.classes] == [130, 345, 349]
    assert [counts["test", name] for name in table.classes] == [21, 85, 72]
    for split, patients in (("train", 591), ("test", 133)):
        assert len({row.patient for row in table.rows if row.split == split}) == patients
    assert all(row.stamp for row in table.rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 a.png normal", ("7", "a.png", "normal", "unknown")),
        ("7 a.png NORMAL RSNA", ("7", "a.png", "normal", "rsna")),
        ("7 a.png normal rnsa", ("7", "a.png", "normal", "rsna")),
        ("7\ta.png\tcovid\tSIRM \n", ("7", "a.png", "COVID-19", "sirm")),
        ("COVID 1 2 a.png Covid19", ("COVID 1 2", "a.png", "COVID-19", "unknown")),
        ("normal normal.png Pneumonia cohen", ("normal", "normal.png", "pneumonia", "cohen")),
        ("generated-7 a.png normal generated", ("generated-7", "a.png", "normal", "generated")),
        ("rsna rsna positive", ("rsna", "rsna", "positive", "unknown")),
    ],
)
def test_lines_are_read_from_the_right(text: str, expected: tuple[str, ...]) -> None:
    assert parse_line(text, where="x") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.png normal",
        "a.png normal rsna",
        "7 a.png nromal rsna",
        "7 a.png normal nowhere",
        "7 a.png level3 rsna",
        "7 /etc/passwd normal",
        "7 ../a.png normal",
        "7 a/../../b.png normal",
        "7 a\0.png normal",
        "7 a\x1b[31m.png normal",
        "x " * 100 + "a.png normal",
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError, match=r"^train\.txt, line 3: "):
        parse_line(text, where="train.txt, line 3")


@given(st.text() | st.lists(st.sampled_from(["a.png", "normal", "rsna", "7", "\0", ".."])))
def test_any_text_is_either_read_or_refused(text: str | list[str]) -> None:
    text = text if isinstance(text, str) else " ".join(text)
    with contextlib.suppress(InputError):
        line = parse_line(text, where="here")
        assert line.source in SOURCES
        assert line.patient
        assert line.file in text.split()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


@given(content=st.binary(max_size=300))
def test_any_bytes_are_either_read_or_refused(scratch: Path, content: bytes) -> None:
    path = scratch / "train.txt"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        list(read_label_file(path))


def test_bom_crlf_blank_lines_and_a_last_line_without_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffp1 a.png normal\r\n\r\n  \np2 b.png covid-19 rsna".encode())
    lines = list(read_label_file(path))
    assert [(number, line.patient) for number, line in lines] == [(1, "p1"), (4, "p2")]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (10 * 1024**3, r"train\.txt is larger than 64 MB"),
        (64 * 1024**2, r"train\.txt, line 2: the line is longer than 4 KB"),
    ],
)
def test_a_line_without_end_is_refused_without_reading_it_whole(
    tmp_path: Path, size: int, reason: str
) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"p1 a.png normal\n")
    os.truncate(path, size)  # a hole: no disk is used
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=reason):
            list(read_label_file(path))
        assert tracemalloc.get_traced_memory()[1] < 1024**2
    finally:
        tracemalloc.stop()


def test_a_million_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"x " * 1_000_000)
    with pytest.raises(InputError, match=r"train\.txt, line 1: the line is longer than 4 KB"):
        list(read_label_file(path))


def test_the_file_and_the_line_of_a_bad_label_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, [*TEST, "p7 g.png hernia rsna"])
    with pytest.raises(InputError, match=r"test\.txt, line 4: .*'p7 g\.png hernia rsna'"):
        read_table(folder)


def test_a_table_has_rows_in_the_order_of_the_label_files(tmp_path: Path) -> None:
    table = read_table(make_folder(tmp_path / "d", TRAIN, TEST))
    assert table.classes == ("COVID-19", "normal", "pneumonia")
    assert [row.path for row in table.rows] == [
        *("train/a.png", "train/b.png", "train/c.png"),
        *("test/d.png", "test/e.png", "test/f.png"),
    ]
    assert table.rows[0].stamp is not None
    assert table.rows[0].stamp[0] == len(TRAIN[0])


def test_two_class_versions_are_negative_then_positive(tmp_path: Path) -> None:
    lines = ["p1 a.png positive rsna", "p2 b.png negative rsna"]
    table = read_table(
        make_folder(tmp_path / "d", lines, ["p3 c.png positive", "p4 d.png negative"])
    )
    assert table.classes == ("negative", "positive")


def test_the_severity_version_has_the_classes_level1_and_level2(tmp_path: Path) -> None:
    lines = ["419639-001863 {}.png level2 ricord", "SITE2-000267 {}.png Level1 ricord"]
    train, test = ([line.format(name + str(n)) for n, line in enumerate(lines)] for name in "ab")
    folder = make_folder(tmp_path / "d", train, test)
    for split in ("train", "test"):
        (folder / f"{split}.txt").rename(folder / f"{split}_COVIDxSev.txt")
    table = read_table(folder)
    assert table.classes == ("level1", "level2")
    assert [row.class_name for row in table.rows] == ["level2", "level1"] * 2
    assert {row.source for row in table.rows} == {"ricord"}


def test_severity_that_is_called_negative_and_positive_is_refused(tmp_path: Path) -> None:
    lines = ["p1 a.png positive ricord", "p2 b.png negative ricord"]
    folder = make_folder(tmp_path / "d", lines, lines)
    assert read_table(folder).classes == ("negative", "positive")
    (folder / "train.txt").rename(folder / "train_COVIDxSev.txt")
    with pytest.raises(InputError, match=r"train_COVIDxSev\.txt labels severity as negative and"):
        read_table(folder)


def test_classes_of_two_versions_do_not_mix(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", [*TRAIN, "p7 g.png positive rsna"], TEST)
    with pytest.raises(InputError, match="stand together"):
        read_table(folder)


def test_published_names_and_a_validation_file_are_found(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / "train.txt").rename(folder / "train_COVIDx9A.txt")
    (folder / "test.txt").rename(folder / "test_COVIDx9A.txt")
    (folder / "val").mkdir()
    (folder / "val.txt").write_text("p9 v.png normal\n")
    row = next(row for row in read_table(folder).rows if row.patient == "p9")
    assert (row.path, row.split, row.stamp) == ("val/v.png", "train", None)


def test_several_label_files_of_a_split_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / "train_COVIDx9B.txt").write_text("p1 a.png positive rsna\n")
    with pytest.raises(InputError, match=r"train\.txt, train_COVIDx9B\.txt"):
        read_table(folder)


@pytest.mark.parametrize("removed", ["train.txt", "test.txt"])
def test_a_split_without_label_file_is_named(tmp_path: Path, removed: str) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / removed).unlink()
    with pytest.raises(InputError, match=f"no label file of {removed[:-4]}"):
        read_table(folder)


def test_a_test_that_is_there_needs_labels_and_one_that_is_not_needs_none(tmp_path: Path) -> None:
    made = [f"{GENERATED}-{n} {n}.png {n} {GENERATED}" for n in ("COVID-19", "normal", "pneumonia")]
    folder = make_folder(tmp_path / "d", made, TEST)
    shutil.rmtree(folder / "test")
    (folder / "test.txt").unlink()
    table = read_table(folder)
    assert [(row.split, row.source) for row in table.rows] == [("train", GENERATED)] * 3
    mixed = make_folder(tmp_path / "mixed", [*made, *TRAIN], TEST)
    (mixed / "test.txt").write_text("")
    with pytest.raises(InputError, match=r"test\.txt names no image; name some, or remove it"):
        read_table(mixed)
    (mixed / "test.txt").unlink()
    with pytest.raises(InputError, match=r"no label file of test, but a folder test/"):
        read_table(mixed)
    shutil.rmtree(mixed / "test")
    assert {row.split for row in read_table(mixed).rows} == {"train"}


def test_a_missing_an_empty_and_an_unlabelled_folder_say_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unlabelled" / "train").mkdir(parents=True)
    (tmp_path / "unlabelled" / "train" / "a.png").touch()
    for name in ("missing", "empty", "unlabelled"):
        with pytest.raises(InputError, match=r"expected train\.txt and test\.txt beside"):
            read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 1000, "a/" * 3000, "a\0b", "a\nb", "caf\udce9"])
def test_a_folder_that_cannot_be_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="there is no data folder '") as caught:
        read_table(Path(name))
    assert str(caught.value).isprintable()


def test_a_class_whose_train_images_are_all_missing_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", [*TRAIN, "p9 i.png pneumonia"], TEST)
    (folder / "train" / "c.png").rename(folder / "train" / "other.png")
    (folder / "train" / "i.png").unlink()
    assert refusal(folder) == (
        "class 'pneumonia' has no image in train that can be used; 2 of 2 lines name missing "
        "files, the first of them 'train/c.png': no file has a name like that, and train/ has 1 "
        "that no line names"
    )
    (folder / "train" / "b.png").unlink()
    (folder / "train" / "other.png").rename(folder / "train" / "c.jpg")
    assert refusal(folder) == (
        "class 'normal' has no image in train that can be used; 1 of 1 lines name missing files "
        "(all classes: 3), the first of them 'train/b.png': no file has a name like that, and "
        "train/ has 1 that no line names"
    )
    (folder / "train" / "b.png").touch()
    assert "'c.png' may be 'train/c.jpg'; correct the labels" in refusal(folder)


def test_a_test_whose_images_are_all_missing_is_refused_with_the_cause(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    assert refusal(folder) == (
        "test has no image that can be used; 3 of 3 lines name missing files, the first of them "
        "'test/d.png': no file has a name like that, and test/ has 0 that no line names"
    )


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_table(folder)
    return str(caught.value)


def rename_in_labels(folder: Path, form: str) -> None:
    """Write every file name of both label files in another form."""
    for split in ("train", "test"):
        lines = (line.split() for line in (folder / f"{split}.txt").read_text().splitlines())
        named = [
            " ".join((patient, form.format(file[:-4], split=split), *rest))
            for patient, file, *rest in lines
        ]
        (folder / f"{split}.txt").write_text("\n".join(named))


def one_deeper(folder: Path) -> None:
    """Move all files of train/ and test/ into a folder in them."""
    for split in ("train", "test"):
        (folder / split).rename(folder / "moved")
        (folder / split).mkdir()
        (folder / "moved").rename(folder / split / "images")


def told(table: Table) -> list[str]:
    return [str(mend) for mend in table.mends]


@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("{}.PNG", "letter case of the ending"),
        ("{split}/{}.png", "{split}/ before the name"),
        ("covidx/{split}/{}.png", "{split}/ before the name"),
        ("{split}\\{}.png", "backslashes, {split}/ before the name"),
    ],
)
def test_names_that_are_certain_in_another_form_are_mended_and_told(
    tmp_path: Path, form: str, how: str
) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    before = read_table(folder)
    rename_in_labels(folder, form)
    table = read_table(folder)
    assert (before.mends, table.rows) == ((), before.rows)
    assert told(table) == [
        f"file names mended in {split}.txt: 3 ({how.format(split=split)})"
        for split in ("train", "test")
    ]
    assert table.digest() != before.digest()  # what is told belongs to what is packed


def test_images_one_folder_deeper_are_found_also_with_another_ending(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    one_deeper(folder)
    (folder / "train" / "images" / "a.png").rename(folder / "train" / "images" / "a.PNG")
    table = read_table(folder)
    assert [row.path for row in table.rows[:2]] == ["train/images/a.PNG", "train/images/b.png"]
    assert all(row.stamp for row in table.rows)
    assert told(table) == [
        "file names mended in train.txt: 1 (letter case of the ending, one folder deeper)",
        "file names mended in train.txt: 2 (one folder deeper)",
        "file names mended in test.txt: 3 (one folder deeper)",
    ]


def test_a_mended_name_is_no_way_out_of_the_folder_and_no_link_to_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", [*TRAIN, "p9 i.PNG normal"], TEST)
    (folder / "train" / "i.PNG").unlink()
    (folder / "train" / "i.png").symlink_to("nothing.png")
    table = read_table(folder)
    assert (table.rows[3].path, table.rows[3].stamp, table.mends) == ("train/i.PNG", None, ())
    (folder / "train" / "i.png").unlink()
    (folder / "train" / "i.png").symlink_to("/etc/hostname")
    assert "'train/i.png' is a link that leads out" in refusal(folder)


def test_files_without_a_label_are_counted_by_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    assert unlabelled(read_table(folder)) == {}
    (folder / "val").mkdir()
    (folder / "train" / "sub").mkdir()
    (folder / "train" / "linked.png").symlink_to("a.png")
    names = ("README.md", "val/1.png", "test/2.png", "test/3.png", "train/sub/4.png", "test/.5")
    for name in names:
        (folder / name).touch()
    assert unlabelled(read_table(folder)) == {"val": 1, "test": 2, "train/sub": 1}


def test_a_folder_that_holds_or_lies_in_the_data_folder_names_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    for typed in (tmp_path, folder / "test"):
        assert f"but '{folder}' does; give that; expected" in refusal(typed)


def test_a_missing_image_has_no_stamp(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", [*TRAIN, "p7 g.png normal rsna"], TEST)
    (folder / "train" / "g.png").unlink()
    assert [row.stamp is None for row in read_table(folder).rows].count(True) == 1


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / "train" / "a.png").unlink()
    (folder / "train" / "a.png").symlink_to("b.png")
    assert read_table(folder).rows[0].stamp == read_table(folder).rows[1].stamp
    (folder / "train" / "a.png").unlink()
    (folder / "train" / "a.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"train\.txt, line 1: .*leads out of the data folder"):
        read_table(folder)


def test_a_label_file_that_is_a_link_out_or_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / "train.txt").rename(tmp_path / "elsewhere.txt")
    (folder / "train.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(InputError, match="leads out"):
        read_table(folder)
    (folder / "train.txt").unlink()
    os.mkfifo(folder / "train.txt")
    with pytest.raises(InputError, match="not a regular file"):
        read_table(folder)


def test_a_stray_text_beside_label_files_is_none_of_them(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    for name in ("training.txt", "values.txt", "tests.txt"):
        (folder / name).write_text("two weeks of training")
    assert read_table(folder).label_files == ("train.txt", "test.txt")


def test_a_label_file_beside_class_folders_is_one_also_below_a_line_that_is_none(
    tmp_path: Path,
) -> None:
    folder = make_class_folders(tmp_path / "d")
    for split in ("train", "test"):
        lines = [f"{split}{n} {n}/1.png {n}" for n in ("covid", "NORMAL", "pneumonia")]
        (folder / f"{split}.txt").write_text("\n".join(lines))
        (folder / f"{split}_notes.txt").write_text("nothing of note")
    table = read_table(folder)
    assert table.label_files == ("train.txt", "test.txt")
    assert [row.path for row in table.rows[:2]] == ["train/covid/1.png", "train/NORMAL/1.png"]
    (folder / "train.txt").write_text("patient file class source\n" + "\n".join(lines))
    assert refusal(folder).startswith("train.txt, line 1: expected 'patient file class")


def test_the_digest_follows_content_and_not_location(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    before = read_table(folder).digest()
    moved = folder.rename(tmp_path / "moved")
    assert read_table(moved).digest() == before
    (moved / "train" / "a.png").write_bytes(b"another")
    assert read_table(moved).digest() != before
