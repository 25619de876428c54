"""What Python code calls: the functions behind the commands, in one process and under its Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import search
import selection
from acgan.errors import InputError

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "example.py"
pytestmark = pytest.mark.usefixtures("_elsewhere")


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))


def alone(folder: Path) -> dict[str, str]:
    """Return an environment whose Ray has no token of others."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    found = {name: value for name, value in os.environ.items() if name not in names}
    return found | {"HOME": str(folder), "OMP_NUM_THREADS": "1"}


def run(folder: Path, *command: str) -> str:
    """Run Python in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=alone(folder),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_changes_nothing_and_loads_nothing_that_takes_long(tmp_path: Path) -> None:
    program = """
import os, signal, sys
before = dict(os.environ), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
import acgan, search, selection
after = dict(os.environ), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
slow = {"torch", "ray", "mlflow", "optuna", "pandas"} & set(sys.modules)
print(before == after, sorted(slow))
"""
    assert run(tmp_path, "-c", program) == "True []\n"


def test_pick_can_be_called_also_when_its_command_was_imported(tmp_path: Path) -> None:
    program = """
import selection
from selection.pick import main
try:
    selection.pick("none", max_candidate=3)
except ValueError as error:
    print(error)
"""
    wanted = "there is no setting 'max_candidate'; did you mean 'max_candidates'?\n"
    assert run(tmp_path, "-c", program) == wanted


def test_wrong_arguments_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no setting 'epcohs'; did you mean 'epochs'"):
        search.search("phantom", epcohs=3)
    with pytest.raises(InputError, match="the configuration: unknown section 'tarin'"):
        search.search("phantom", config={"tarin": {}})
    with pytest.raises(InputError, match=r"'train\.epochs': must be .* got -1"):
        search.search("phantom", config={"train": {"epochs": -1}})
    with pytest.raises(InputError, match=r"space.*'lerning_rate'"):
        search.search("phantom", space={"lerning_rate": {"low": 1e-5, "high": 1e-3}})
    with pytest.raises(InputError, match=r"in memory .*save_images\(folder, images, labels\)"):
        search.search(np.zeros((4, 16, 16)))  # type: ignore[arg-type]
    for of_none in (search.load_study, selection.pick, selection.augmentation_study):
        with pytest.raises(InputError, match="there is no study at"):
            of_none("none")
    for call in (search.load_study, selection.pick, selection.augmentation_study):
        with pytest.raises(InputError, match="name the study, or run_id=ID"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_the_guide_shows_the_example_that_is_run() -> None:
    code = EXAMPLE.read_text().split('"""', 2)[2].strip()
    assert f"```python\n{code}\n```" in (ROOT / "docs" / "python.md").read_text()
    assert len(code.splitlines()) < 30


@pytest.mark.process
def test_a_run_without_a_search_is_as_the_guide_says(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "python.md").read_text()
    (block,) = [b for b in guide.split("```python\n")[1:] if b.startswith("from acgan.config")]
    small = "image_size=16, width=0.0625, batch_size=16, epochs=2"
    code = block.partition("```")[0].replace("DIR", "phantom")
    code = re.sub(r"image_size=.*epochs=40", small, code)
    assert small in code
    epochs = [line.split()[0] for line in run(tmp_path, "-c", code).splitlines()]
    assert epochs == ["1", "2"]


@pytest.mark.process
def test_the_example_runs(tmp_path: Path) -> None:
    output = run(tmp_path, str(EXAMPLE))
    assert "best: t000" in output
    assert "(rule: " in output
    assert "optimistic: the generator was picked on these images" in output
    for name in ("samples.png", "mlflow.db", "runs/notebook/study.json"):
        assert (tmp_path / name).is_file()
    (pick,) = (tmp_path / "runs" / "notebook" / "selection").glob("*/pick.json")
    assert json.loads(pick.read_bytes())["scope"] == "study"


INTERRUPTED = """
import search

asked = dict(
    study="cut", num_samples=2, max_concurrent=1, image_size=16, width=0.0625, epochs=3,
    grace_updates=1, max_retries=0, tell=lambda line: print(line, flush=True),
)
try:
    search.search("phantom", **asked)
except KeyboardInterrupt:
    print("interrupted", flush=True)
study = search.load_study("cut")
there = len(study.epochs)
study = search.search("phantom", **asked)
print(there >= 1, study.missing, list(study.trials["epochs"]), flush=True)
"""


@pytest.mark.process
def test_interrupted_it_is_safe_and_called_again_in_the_same_process_it_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "cut.py").write_text(INTERRUPTED)
    words = [sys.executable, "cut.py"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=alone(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("t0000 epoch 1 ") and "interrupted" not in lines:
                process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0
    assert "interrupted" in lines
    assert lines[-1] == "True 0 [3, 3]"


SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")  # HAM10000's seven
WITHIN_OTHERS = f"""
import gc, os, sys
import mlflow, numpy as np, ray
from acgan.data.arrays import save_images
import search, selection

classes = {SKIN!r}
random = np.random.default_rng(0)
labels = [label for label in range(7) for _ in range(60 + 20 * (label == 5))]
tints = random.integers(40, 216, (7, 3))
images = [
    np.clip(tints[label] + random.normal(0, 12, (16, 16, 3)), 0, 255).astype(np.uint8)
    for label in labels
]
folder = save_images("skin", images, labels, classes=classes)

mlflow.set_tracking_uri("sqlite:///others.db")
mine = mlflow.start_run(run_name="mine")
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
before = dict(os.environ)
asked = dict(
    config={{"train": {{"image_size": 16, "width": 0.0625, "batch_size": 16, "epochs": 4}}}},
    space={{"dropout": {{"low": 0.0, "high": 0.5}}}},
    study="skin", num_samples=2, grace_updates=20, tracking_uri="sqlite:///mlflow.db",
)
lines = []
study = search.search(folder, tell=lines.append, **asked)
assert study.missing == 0 and study.classes == classes, study
assert list(study.trials.index) == ["t0000", "t0001"]
assert list(study.trials["outcome"]) == ["finished"] * 2
assert study.trials["dropout"].between(0, 0.5).all()
assert study.epochs.shape[0] == 8 and study.epochs.loc[("t0001", 4), "kept"]
assert study.samples("t0001", 4).size == study.samples("t0001").size
assert any("starting Ray" in line for line in lines)

settings = dict(max_candidates=2, cnn_images=32, cnn_epochs=3, fidelity_images=32)
settings |= dict(class_margin=0.0, dead_real_below=0.0)
picked = selection.pick(study, **settings)
again = selection.pick("skin", tracking_uri="sqlite:///mlflow.db", **settings)
assert again.pick == picked.pick and again.standing == picked.standing
assert picked.candidates["winner"].sum() == 1
images, names = picked.images({{"mel": 3, "akiec": 2}}, seed=5)
assert images.shape == (5, 3, 16, 16)
assert names.tolist() == ["akiec", "akiec", "mel", "mel", "mel"]
assert np.array_equal(picked.images(4, seed=5)[0][:2], images[:2])

found = selection.augmentation_study(picked, updates=30, cnn_epochs=3, amounts=[2])
assert found.arms.shape[0] == 7 and found.arms["balanced_accuracy"].between(0, 1).all()
assert found.report.is_file() and found.result.classes == list(classes)

assert ray.is_initialized() and gc.get_freeze_count() == 0
assert mlflow.active_run().info.run_id == mine.info.run_id
assert dict(os.environ) == before
mlflow.end_run()
(left,) = mlflow.search_runs(experiment_ids=["0"], output_format="list")
assert not left.data.metrics and not left.data.params
print(picked.model_uri)
"""


@pytest.mark.process
def test_seven_classes_in_colour_go_the_whole_way_within_anothers_ray_and_mlflow_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "within.py").write_text(WITHIN_OTHERS)
    uri = run(tmp_path, "within.py").splitlines()[-1]
    program = f"""
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model({uri!r})
images = model.predict([{{"label": "nv", "index": i}} for i in range(2)])
print(np.asarray(images).shape)
"""
    assert "16, 16" in run(tmp_path, "-c", program)
    goes_on = "import search; print(search.load_study('skin').trials['value'].notna().sum())"
    assert run(tmp_path, "-c", goes_on) == "2\n"
