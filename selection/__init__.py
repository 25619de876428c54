"""Selection: from every kept epoch of every trial to one set of weights."""
