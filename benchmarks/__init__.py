"""Benchmarks: every number beside its peer and its limit, measured in the same run.

Each is one command, `python -m benchmarks.NAME`, that ends in a Markdown table; `--out
docs/performance.md` puts it into that page.
"""
