"""The steps of a pick: the filter, CNNs of generated images, fidelity, and what follows from
them.
"""
