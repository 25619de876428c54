"""The code of a registered generator: MLflow stores this file and runs it when a model is loaded.

Beside it stand the package `acgan` and two artifacts: the weights, and what is known of them.
Nothing is unpickled. This module is run, not imported.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from acgan.config import nearest_name
from acgan.errors import InputError
from acgan.generation.generator import BLOCK, generate, load_generator


class RegisteredGenerator(PythonModel):
    """Images by class, index and seed."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights; their SHA-256 must be the one that was registered."""
        facts = json.loads(Path(context.artifacts["facts"]).read_bytes())
        self.loaded = load_generator(
            Path(context.artifacts["weights"]),
            device=torch.device("cpu"),
            sha256=facts["weights_sha256"],
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  the base class names these
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> NDArray[np.uint8]:
        """Return an image per row, uint8 [N, H, W, 3], equal to those of `acgan.generate`.

        Columns: `label`, the name of a class; `index`, which image of the class, from 0; `seed`
        (default: 0). Raises `InputError` for a class that is not known or an index below 0.
        """
        rows = model_input.reset_index(drop=True)
        if "seed" not in rows:
            rows["seed"] = 0
        for name in set(rows["label"]) - set(self.loaded.classes):
            raise InputError(f"there is no class {name!r}{nearest_name(name, self.loaded.classes)}")
        if (rows["index"] < 0).any():
            raise InputError("an index counts the images of a class: it must be 0 or more")
        side = self.loaded.config.image_size
        images = np.empty((len(rows), side, side, 3), np.uint8)
        blocks = rows["index"] // BLOCK
        for (name, seed, block), own in rows.groupby(["label", "seed", blocks]):
            label = self.loaded.classes.index(name)
            made = generate(self.loaded, label, count=BLOCK, seed=seed, start=block * BLOCK)
            images[own.index] = made[own["index"] % BLOCK].transpose(0, 2, 3, 1)
        return images


set_model(RegisteredGenerator())
