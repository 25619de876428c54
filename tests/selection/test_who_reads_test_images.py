"""Which functions of selection read the test images: those of a look that is on the record."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import selection


def _functions() -> dict[str, str]:
    """Return the source of every function of selection, without comments, by its full name."""
    found = {}
    for path in Path(selection.__file__).parent.rglob("*.py"):
        for outer in ast.walk(ast.parse(path.read_text())):
            owner = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
            for function in ast.iter_child_nodes(outer):
                if isinstance(function, ast.FunctionDef):
                    found[f"{path.stem}.{owner}{function.name}"] = ast.unparse(function)
    return found


def test_only_the_look_at_the_test_images_asks_for_them() -> None:
    functions = _functions()

    def users(pattern: str) -> set[str]:
        return {name for name, source in functions.items() if re.search(pattern, source)}

    looks = {
        "look_at_test.LookJob._see",
        "look_at_test.RealLookJob.compute",
        "jobs.ArmJob.compute",
    }
    assert users(r"\.all_data\(") == {"results.Work.data", *looks}
    assert users(r"\bsame_data\(") == {"results.Work.all_data"}
    assert users(r"(?<!def )(?<![.\w])load\(") == set()
    assert users(r"\bstudy_images\(") == {"request.load_data", "plan.make_study_plan"}
    look, counted = (
        looks | {"look_at_test.LookJob._metrics"},
        {  # labels, no pixels
            "plan.make_pick_plan",
            "request.load_data",
            "plan.make_study_plan",
            "confounding.DataFacts.of",
        },
    )
    assert users(r"data\.test\b") == look | counted
    assert users(r"\._metrics\(") == {"look_at_test.LookJob._see"}
    assert users(r"\bLookJob\(") == {"funnel.Funnel._test_job"}
    assert users(r"\bRealLookJob\(") == {"funnel.Funnel._look_at_test"}
    assert users(r"\._test_job\(") == {"funnel.Funnel._look_at_test"}
