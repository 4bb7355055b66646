"""The step download and its own helpers."""
