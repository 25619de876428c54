"""From images in memory to what they are worth; see docs/python.md."""

import search
import selection
from acgan.data.arrays import save_images
from acgan.data.phantom import CLASSES, make

own, _ = make(32)  # drawn X-rays: put your own arrays, class names and patients in their place
folder = save_images("images", own.images, own.labels, classes=CLASSES, patients=own.patients)

quick = {"image_size": 16, "width": 0.125, "epochs": 10, "grace_updates": 50}  # leave it out
study = search.search(folder, study="notebook", num_samples=2, bar=True, **quick)
print(study)  # the best trial beside the baseline
print(study.trials[["learning_rate", "value", "outcome"]].sort_values("value"))
print(study.epochs["val/coverage"].unstack("trial"))  # .plot() in a notebook
study.samples("t0000").save("samples.png")

few = {"max_candidates": 2, "cnn_images": 64, "cnn_epochs": 3, "fidelity_images": 64}  # likewise
picked = selection.pick(study, **few)
print(picked)
print(picked.candidates["balanced_accuracy"])
print(picked.report)
images, names = picked.images(per_class=8)  # uint8 [24, 3, 16, 16], and 24 class names

helps = selection.augmentation_study(picked, keep={"COVID-19": 0.2}, updates=60)
print(helps)
print(helps.arms["against_real"])
