"""Selection: from every kept epoch of every trial to one set of weights."""

import acgan  # noqa: F401 - Ctrl-C while the rest is imported
