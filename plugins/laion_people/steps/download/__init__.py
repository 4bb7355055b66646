"""The step download and its helpers."""
