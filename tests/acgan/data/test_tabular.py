"""Tables of labels as data sets bring them, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.data.layouts import read_table
from acgan.data.table import Reading, Table
from acgan.data.tabular import write_table
from acgan.errors import InputError
from tests.folders import make_files, placed


def table_of(folder: Path, text: str, *, images: tuple[str, ...] = (), **reading: str) -> Table:
    """Read a folder with a table and images."""
    make_files(folder, images)
    (folder / "labels.csv").write_text(text)
    return read_table(folder, Reading(**reading))


def refusal(folder: Path, text: str, *, images: tuple[str, ...] = (), **reading: str) -> str:
    with pytest.raises(InputError) as caught:
        table_of(folder, text, images=images, **reading)
    return str(caught.value)


def test_files_and_classes_are_found_by_the_columns_names(tmp_path: Path) -> None:
    text = "filename,label\na.png,nevus\nb.png,melanoma\n"
    table = table_of(tmp_path, text, images=("images/a.png", "images/b.png"))
    assert placed(table) == {
        "images/a.png": ("train", "nevus"),
        "images/b.png": ("train", "melanoma"),
    }
    assert (table.layout, table.label_files) == ("table of labels", ("labels.csv",))
    assert table.classes == ("melanoma", "nevus")
    assert all(row.stamp for row in table.rows)
    assert "nothing names the patients" in table.warnings[0]


def test_the_skin_images_of_ham10000_are_read_with_their_lesions(tmp_path: Path) -> None:
    text = (
        "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "HAM_1,ISIC_1,bkl,histo,80.0,male,scalp\nHAM_1,ISIC_2,bkl,histo,80.0,male,scalp\n"
        "HAM_2,ISIC_3,nv,histo,,female,back\n"
    )
    images = ("HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_1/ISIC_2.jpg")
    table = table_of(tmp_path, text, images=(*images, "HAM10000_images_part_2/ISIC_3.jpg"))
    assert [row.patient for row in table.rows] == ["HAM_1", "HAM_1", "HAM_2"]
    assert [row.path for row in table.rows[:2]] == list(images)
    assert table.warnings == ()


def test_one_hot_columns_are_classes_as_in_isics_ground_truth(tmp_path: Path) -> None:
    text = "image,MEL,NV,BCC\nI1,1.0,0.0,0.0\nI2,0.0,1.0,0.0\nI3,0.0,1.0,1.0\nI4,0.0,0.0,0.0\n"
    images = tuple(f"{name}.jpg" for name in ("I1", "I2", "I3", "I4"))
    table = table_of(tmp_path, text, images=images)
    assert placed(table) == {"I1.jpg": ("train", "MEL"), "I2.jpg": ("train", "NV")}
    assert table.warnings[:2] == (
        "labels.csv: lines left out: 1 (several labels)",
        "labels.csv: lines left out: 1 (no label)",
    )


def test_which_columns_of_0_and_1_are_the_classes_is_said_where_lines_have_not_one(
    tmp_path: Path,
) -> None:
    images = tuple(f"{name}.png" for name in "abc")
    text = "image,Smoker,TB\na,1,0\nb,0,1\nc,1,1\n"
    told = "labels.csv: classes are its columns of 0 and 1, Smoker, TB (--label-column"
    assert any(told in warning for warning in table_of(tmp_path, text, images=images).warnings)
    text = "image,healthy,TB\na,1,0\nb,0,1\nc,0,1\n"
    assert not any("0 and 1" in warning for warning in table_of(tmp_path, text).warnings)


@pytest.mark.parametrize("sex", ["Sex", "Patient Gender", "is_male"])
def test_a_patients_sex_is_no_class(tmp_path: Path, sex: str) -> None:
    images = tuple(f"{name}.png" for name in "abcd")
    two = f"image,{sex},TB\na,0,0\nb,0,1\nc,1,0\nd,1,1\n"
    assert "say which with --label-column" in refusal(tmp_path, two, images=images)
    assert table_of(tmp_path, two, label_column="TB").classes == ("0", "1")
    three = f"image,{sex},healthy,TB\na,0,1,0\nb,0,0,1\nc,1,1,0\nd,1,0,1\n"
    table = table_of(tmp_path, three)
    assert (table.classes, len(table.rows)) == (("healthy", "TB"), 4)


def test_chestxray14s_findings_leave_out_lines_with_several(tmp_path: Path) -> None:
    text = (
        "Image Index,Finding Labels,Follow-up #,Patient ID\n"
        "00000001_000.png,Cardiomegaly,0,1\n00000001_001.png,Cardiomegaly|Emphysema,1,1\n"
        "00000002_000.png,No Finding,0,2\n"
    )
    images = ("images_001/images/00000001_000.png", "images_001/images/00000001_001.png")
    table = table_of(tmp_path, text, images=(*images, "images_002/images/00000002_000.png"))
    assert table.classes == ("Cardiomegaly", "No Finding")
    assert [row.patient for row in table.rows] == ["1", "2"]
    assert table.warnings == ("labels.csv: lines left out: 1 (several labels)",)


def test_split_and_source_are_used_where_there_are_columns_of_them(tmp_path: Path) -> None:
    text = (
        "path;class;split;site;patient\na.png;x;Train;north;1\nb.png;y;TEST;;\nc.png;y;train;;3\n"
    )
    table = table_of(tmp_path, text, images=("a.png", "b.png", "c.png"))
    assert [row.split for row in table.rows] == ["train", "test", "train"]
    assert [row.source for row in table.rows] == ["north", "unknown", "unknown"]
    assert [row.patient for row in table.rows] == ["1", "b.png", "3"]


def test_a_class_is_one_in_any_letter_case_and_is_written_as_most_lines_have_it(
    tmp_path: Path,
) -> None:
    text = "file,label\na.png,covid\nb.png,COVID\nc.png,COVID\nd.png,Normal\n"
    table = table_of(tmp_path, text, images=("a.png", "b.png", "c.png", "d.png"))
    assert table.classes == ("COVID", "Normal")
    assert [row.class_name for row in table.rows] == ["COVID"] * 3 + ["Normal"]
    told = "labels.csv: letter case makes no other class: 'covid' as 'COVID'"
    assert table.warnings[0] == told


def test_columns_and_the_table_can_be_named(tmp_path: Path) -> None:
    make_files(tmp_path / "elsewhere", {"my.tsv": "which\twhat\na\tx\nb\ty\n"})
    folder = make_files(tmp_path / "d", ["a.png", "b.png", "one.csv", "two.csv"])
    named = Reading(str(tmp_path / "elsewhere" / "my.tsv"), "which", "what")
    assert placed(read_table(folder, named)) == {"a.png": ("train", "x"), "b.png": ("train", "y")}
    with pytest.raises(InputError, match="no column 'wich'; did you mean 'which'"):
        read_table(folder, named._replace(file_column="wich"))
    with pytest.raises(InputError, match=r"there is no file 'no\.csv' of labels"):
        read_table(folder, Reading("no.csv"))
    with pytest.raises(InputError, match=r"a\.png is no table of labels by its name"):
        read_table(folder, Reading("a.png"))


def test_a_byte_order_mark_crlf_and_blank_lines_are_read(tmp_path: Path) -> None:
    text = "\ufefffile,label\r\na.png,x\r\n\r\n ,\r\nb.PNG,y\r\n"
    table = table_of(tmp_path, text, images=("a.png", "b.PNG"))
    assert [row.path for row in table.rows] == ["a.png", "b.PNG"]


@pytest.mark.parametrize("folder", ["covid", "covid/more", ""])
def test_no_file_is_read_for_a_missing_one_of_the_same_name_that_another_line_names(
    tmp_path: Path, folder: str
) -> None:
    there: tuple[str, ...] = ("normal/0.png", "normal/1.png")
    there += ("normal/9.png", f"{folder}/9.PNG") if folder else ()
    lines = ["covid/0.png,covid", "covid/9.png,covid", "normal/0.png,normal", "normal/1.png,normal"]
    lines += ["other/1.png,covid", "other/2.png,covid"]
    text = "\n".join(["file,label", *lines, ""])
    if not folder:
        assert "class 'covid' has no image in train" in refusal(tmp_path, text, images=there)
        return
    table = table_of(tmp_path, text, images=there)
    assert [(row.path, row.class_name) for row in table.rows if row.stamp] == [
        (f"{folder}/9.PNG", "covid"),
        ("normal/0.png", "normal"),
        ("normal/1.png", "normal"),
    ]


def test_a_folder_that_is_another_one_on_the_disk_is_said(tmp_path: Path) -> None:
    text = "file,label\ndata/a,x\ndata/b.PNG,x\nin/c,y\n"
    table = table_of(tmp_path, text, images=("in/a.png", "in/b.png", "in/c.png"))
    assert [row.path for row in table.rows] == ["in/a.png", "in/b.png", "in/c.png"]
    assert [(mend.how, mend.count) for mend in table.mends] == [
        ("another folder", 1),
        ("letter case of the ending or Unicode form", 1),
    ]


def test_a_name_that_no_file_can_have_is_of_a_missing_file(tmp_path: Path) -> None:
    long = "q" * 300
    text = f"file,label\n{long}/a.png,\n{long}/c.png,x\n{long},y\na.png,x\nb.png,y\n"
    table = table_of(tmp_path, text, images=("a.png", "b.png"))
    assert [row.path for row in table.rows if row.stamp] == ["a.png", "b.png"]


def test_two_lines_of_one_file_keep_their_classes(tmp_path: Path) -> None:
    text = "file,label\na.png,x\nb.png,y\na.png,y\n"
    table = table_of(tmp_path, text, images=("a.png", "b.png"))
    assert [row.class_name for row in table.rows] == ["x", "y", "y"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty; expected a CSV or TSV file with a header"),
        ("name,label\na.png,x\n", "no column that is known to name files (name, label); say which"),
        ("file,kind\na.png,x\nb.png,y\n", "no column that is known to name classes, nor"),
        ("file,label\na.png,x,y\n", "labels.csv, line 2: 3 cells, the header has 2"),
        ("file,label\n../a.png,x\n", "line 2: the file '../a.png' must lie in the data folder"),
        ("file,label\n/a.png,x\n", "line 2: the file '/a.png' must lie in the data folder"),
        ("file,label,file\na.png,x,b\n", "has the column 'file' twice; rename one"),
        ("file,label,split\na.png,x,often\n", "line 2: 'often' is no split; expected train, val"),
        ("file,label\nsame.png,x\n", "'same.png' can mean 'x/p/same.png' or 'x/q/same.png'; write"),
        ("file,label\na.png,x\nb.png,x\n", "has the one class 'x'; a search needs two or more"),
        ("file,label\na.png,x\0\n", "line 2: this is not a line of text; remove it"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_what_to_do(
    tmp_path: Path, text: str, reason: str
) -> None:
    images = ("a.png", "b.png", "x/p/same.png", "x/q/same.png")
    assert reason in refusal(tmp_path, text, images=images)


def test_a_line_whose_file_is_missing_is_a_row_without_one(tmp_path: Path) -> None:
    text = "file,label\na.png,x\nb.png,y\nc.png,y\n"
    table = table_of(tmp_path, text, images=("a.png", "b.png"))
    assert [row.stamp is None for row in table.rows] == [False, False, True]
    text = "file,label\na.png,x\nc.png,y\nd.png,y\n"
    assert refusal(tmp_path, text) == (
        "class 'y' has no image in train that can be used; 2 of 2 lines name missing files, the "
        "first of them 'c.png': no file has a name like that, and the folder has 2 that no line "
        "names"
    )


def test_several_tables_leave_class_folders_to_be_read(tmp_path: Path) -> None:
    images = ["a/1.png", "b/2.png"]
    folder = make_files(tmp_path, [*images, "x.csv", "y.csv"])
    assert read_table(folder).layout == "class folders"


@given(st.binary(max_size=200))
def test_any_bytes_are_either_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(InputError):  # no image is there
        read_table(folder)


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="|"))] * 2
        )
    )
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("again")
    rows = [(f"{number}.png", f"a{label}") for number, label in enumerate(labels)]
    rows += [("x.png", "class, with a comma"), ("y.png", 'class "with" quotes')]
    make_files(folder, [name for name, _ in rows])
    (folder / "labels.csv").write_text(write_table([("file", "label"), *rows]))
    table = read_table(folder)
    assert [(row.path, row.class_name) for row in table.rows] == rows


def named(table: str, folder: Path) -> list[str]:
    """Return the warnings of a folder's reading that speak of a table."""
    return [warning for warning in read_table(folder).warnings if table in warning]


@pytest.mark.parametrize(
    "text",
    ["", "epoch,loss,acc\n1,2,3\n", "who,when\nx,y\n", "id,age\n1,40\n"],
)
def test_a_table_that_is_none_of_labels_does_not_decide_the_layout(
    text: str, tmp_path: Path
) -> None:
    folder = make_files(tmp_path, ["a/1.png", "b/2.png"])
    (folder / "notes.csv").write_text(text)
    table = read_table(folder)
    assert (table.layout, table.classes) == ("class folders", ("a", "b"))


def test_a_table_of_few_of_the_images_in_class_folders_is_not_read_and_is_named(
    tmp_path: Path,
) -> None:
    places = [f"{split}/{name}" for split in ("train", "test") for name in "ab"]
    images = [f"{place}/{number}.png" for place in places for number in range(4)]
    folder = make_files(tmp_path, images)
    rows = [(path, "x" if path < "train/b" else "y") for path in images if path.startswith("train")]
    (folder / "sample.csv").write_text(write_table([("file", "label"), *rows[:3], rows[-1]]))
    table = read_table(folder)
    assert (table.layout, table.classes, len(table.rows)) == ("class folders", ("a", "b"), 16)
    (told,) = named("sample.csv", folder)
    assert told.endswith("to read it all the same: --labels sample.csv")
    assert read_table(folder, Reading(labels="sample.csv")).classes == ("x", "y")

    (folder / "sample.csv").write_text(write_table([("file", "label"), *rows]))
    assert read_table(folder).layout == "table of labels"  # it names half of them
    (folder / "sample.csv").write_text("file,label\nnowhere.png,x\nelse.png,y\n")
    assert read_table(folder).layout == "class folders"


def test_a_table_of_labels_with_a_broken_line_beside_class_folders_is_refused(
    tmp_path: Path,
) -> None:
    files = {"a/1.png": "", "b/2.png": "", "labels.csv": "file,label\n1.png\n"}
    folder = make_files(tmp_path, files)
    with pytest.raises(InputError, match=r"line 2: 1 cells.*; or move it away: there are class"):
        read_table(folder)


def test_of_several_tables_the_one_that_names_files_is_read(tmp_path: Path) -> None:
    labels = "file,label\na.png,x\nb.png,y\n"
    files = {"a.png": "", "b.png": "", "labels.csv": labels, "results.csv": "epoch,loss\n1,2\n"}
    folder = make_files(tmp_path / "d", files)
    (folder / "empty.csv").touch()
    assert read_table(folder).label_files == ("labels.csv",)
    (folder / "more.csv").write_text(labels)
    with pytest.raises(InputError, match=r"2 tables \(labels.csv, more.csv\); say which"):
        read_table(folder)
    assert read_table(folder, Reading(labels="more.csv")).label_files == ("more.csv",)


def test_the_letter_case_of_an_ending_is_mended_and_told(tmp_path: Path) -> None:
    folder = make_files(tmp_path, {"i/a.jpg": "", "i/b.PNG": "", "i/c.jpg": ""})
    (folder / "labels.csv").write_text("file,label\na.JPG,x\ni/b.png,y\nc.jpg,y\n")
    table = read_table(folder)
    assert [row.path for row in table.rows] == ["i/a.jpg", "i/b.PNG", "i/c.jpg"]
    (mend,) = table.mends
    assert (mend.where, mend.count, mend.named, mend.found) == ("labels.csv", 2, "a.JPG", "i/a.jpg")


def test_an_empty_folder_of_a_split_does_not_hide_class_folders_at_the_top(tmp_path: Path) -> None:
    folder = make_files(tmp_path, ["a/1.png", "b/2.png"])
    (folder / "train").mkdir()
    assert read_table(folder).classes == ("a", "b")


def test_a_table_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, {"elsewhere.csv": "file,label\na.png,x\nb.png,y\n"})
    folder = make_files(tmp_path / "d", ["a.png", "b.png"])
    (folder / "labels.csv").symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(InputError, match="leads out of the data folder"):
        read_table(folder)
    named = Reading(labels=str(tmp_path / "elsewhere.csv"))
    assert len(read_table(folder, named).rows) == 2


def test_a_quoted_cell_with_a_line_end_is_refused_and_an_odd_separator_is_text(
    tmp_path: Path,
) -> None:
    images = ("a.png", "b.png")
    assert "line 3: this is not a line of text" in refusal(
        tmp_path, 'file,label\na.png,"x\ny"\n', images=images
    )
    table = table_of(tmp_path, 'file,label\na.png,"x, y"\nb.png,z\n', images=images)
    assert table.classes == ("x, y", "z")
