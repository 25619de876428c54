"""What is called "one picture per class": a generator whose images of a class hardly differ.

`val/diversity` is the spread of generated images, as a share of held-out real images' spread, in
the class where it is smallest. Published generators of up to 1,500 updates have .07 to .19 and
show one picture per class to the eye; generators whose images visibly vary have 0.75 and more.
"""

DIVERSITY = "val/diversity"
ONE_PICTURE = "one picture per class"
ONE_PICTURE_BELOW = 0.3


def is_one_picture(diversity: float | None, below: float = ONE_PICTURE_BELOW) -> bool:
    """Return whether images of this `val/diversity` are called so; not if it is None or NaN."""
    return diversity is not None and diversity < below
