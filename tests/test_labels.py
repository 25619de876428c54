"""Label files of all versions, class folders, and every way in which they can be wrong."""

import contextlib
import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.errors import InputError
from acgan.labels import GENERATED, SOURCES, parse_line, read_label_file, read_table

SHARED = Path(__file__).parents[2] / "shared" / "data"
LABELS = SHARED / "covidx-labels"
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="no published label files here")
needs_mini = pytest.mark.skipif(
    not (SHARED / "covidx-mini").is_dir(), reason="no covidx-mini images here"
)

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
        "7 a.png level1 rsna",
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


def test_generated_images_alone_need_no_test_but_beside_real_ones_do(tmp_path: Path) -> None:
    made = [f"{GENERATED}-{n} {n}.png {n} {GENERATED}" for n in ("COVID-19", "normal", "pneumonia")]
    folder = make_folder(tmp_path / "d", made, TEST)
    shutil.rmtree(folder / "test")
    (folder / "test.txt").unlink()
    table = read_table(folder)
    assert [(row.split, row.source) for row in table.rows] == [("train", GENERATED)] * 3
    mixed = make_folder(tmp_path / "mixed", [*made, *TRAIN], TEST)
    (mixed / "test.txt").write_text("")
    with pytest.raises(InputError, match="test has no image that can be used"):
        read_table(mixed)
    (mixed / "test.txt").unlink()
    with pytest.raises(InputError, match=r"no label file of test"):
        read_table(mixed)


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
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    (folder / "train" / "c.png").unlink()
    with pytest.raises(InputError, match="'pneumonia' has no image in train"):
        read_table(folder)


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


def make_class_folders(
    folder: Path, names: tuple[str, ...] = ("covid", "NORMAL", "pneumonia")
) -> Path:
    for split in ("train", "test"):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "1.png").write_bytes(f"{split} {name}".encode())
    return folder


def test_class_folders_are_read_and_every_image_is_its_own_patient(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "d")
    (folder / "train" / ".DS_Store").touch()
    table = read_table(folder)
    assert table.classes == ("COVID-19", "normal", "pneumonia")
    assert table.rows[0].path == "train/NORMAL/1.png"
    assert len({row.patient for row in table.rows}) == len(table.rows) == 6


def test_class_folders_refuse_links_out_unknown_names_and_empty_classes(tmp_path: Path) -> None:
    linked = make_class_folders(tmp_path / "linked")
    (linked / "train" / "pneumonia" / "2.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out"):
        read_table(linked)
    far = make_class_folders(tmp_path / "far", ("covid", "normal"))
    (far / "train" / "pneumonia").symlink_to(tmp_path / "linked" / "train" / "pneumonia")
    with pytest.raises(InputError, match="leads out"):
        read_table(far)
    unknown = make_class_folders(tmp_path / "unknown", ("covid", "normal", "lungs"))
    with pytest.raises(InputError, match="'train/lungs' is no class"):
        read_table(unknown)
    empty = make_class_folders(tmp_path / "empty")
    (empty / "train" / "pneumonia" / "1.png").unlink()
    with pytest.raises(InputError, match="'pneumonia' has no image in train"):
        read_table(empty)


def test_a_name_that_is_no_text_is_read_in_a_class_folder_but_is_no_label_file(
    tmp_path: Path,
) -> None:
    folder = make_class_folders(tmp_path / "d")
    (folder / "train.txt\n.txt").touch()
    odd = "2\n\udcff.png"
    (folder / "train" / "covid" / odd).touch()
    table = read_table(folder)
    assert len(table.rows) == 7
    assert table.digest() == read_table(folder).digest()
    (folder / "train" / "covid" / odd).unlink()
    (folder / "train" / "covid" / odd).symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out") as caught:
        read_table(folder)
    assert str(caught.value).isprintable()


def test_the_digest_follows_content_and_not_location(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", TRAIN, TEST)
    before = read_table(folder).digest()
    moved = folder.rename(tmp_path / "moved")
    assert read_table(moved).digest() == before
    (moved / "train" / "a.png").write_bytes(b"another")
    assert read_table(moved).digest() != before
