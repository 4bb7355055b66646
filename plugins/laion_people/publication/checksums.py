"""checksums.sha256: ``sha256sum --check`` with it, in a publication's folder, finds what is damaged or missing."""

from __future__ import annotations

from collections.abc import Iterable

from laion_people.publication.release import PublishedFile

CHECKSUMS = "checksums.sha256"


def checksums(files: Iterable[PublishedFile]) -> bytes:
    """The lines that sha256sum reads, in the order of the paths (which hold neither backslashes nor line ends)."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path)).encode()
