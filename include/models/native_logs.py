"""Keeps start-up messages of native libraries out of the log."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# MediaPipe 0.10.21 writes these at any log level: https://github.com/google-ai-edge/mediapipe/issues/5737
_CHATTER = re.compile(rb"(WARNING: All log messages before absl|INFO: Created TensorFlow Lite|[IW]\d{4} )")
_lock = threading.Lock()  # file descriptor 2 belongs to the whole process


@contextmanager
def hidden() -> Iterator[None]:
    """Holds back the output to file descriptor 2. At the end it passes on all but the known messages."""
    with _lock, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
            os.close(stderr)
