"""Generators read from weights files, and folders of images made by them."""
