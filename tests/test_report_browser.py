"""The report in a real browser (Debian's chromium), in a frame as narrow as a telephone and one as wide as a laptop."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from laion_people.reports.report import write_report
from laion_people.storage.store import LocalStore
from tests.synthetic_store import change_manifest, make_store
from tests.test_report import CAPTIONS

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--dump-dom")  # fmt: skip
FRAME = """<!doctype html><iframe width="WIDTH" height="900" src="index.html"></iframe><script>
onload = () => {
  const page = frames[0].document, wide = frames[0].innerWidth
  const beyond = e => e.getBoundingClientRect().right > wide + 1 && !e.closest('.scroll, nav')
  const told = {
    width: wide,
    scrolls: page.documentElement.scrollWidth,
    beyond: [...page.body.querySelectorAll('*')].filter(beyond).map(e => e.tagName + ' ' + e.textContent.slice(0, 60)),
    styled: frames[0].getComputedStyle(page.querySelector('.tiles')).display,
    broken: [...page.images].filter(i => i.complete && !i.naturalWidth).length,
  }
  document.body.replaceChildren(JSON.stringify(told))
}
</script>"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with a report, and its address on loopback."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    for partition in ("demo/00000", "relaion2B-en-research-safe/00001"):
        make_store(store, partition, images=9, captions=CAPTIONS)
        lost = {f"a_long_reason_for_losing_a_row_{i}": 10**6 + i for i in range(12)}
        change_manifest(store, "download", partition, rows_in=2_318_123_456, rows=2_306_123_390, rejected=lost)
    folder = tmp_path_factory.mktemp("site")
    write_report(store, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(site: tuple[Path, str], width: int, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed: `apt-get install chromium`, as .ci/run does"
    folder, address = site
    (folder / f"{width}.html").write_text(FRAME.replace("WIDTH", str(width)))
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path}", "--window-size=1400,1000", f"{address}/{width}.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = json.loads(dom[dom.index("{") : dom.rindex("}") + 1].replace("&lt;", "<").replace("&gt;", ">"))
    assert told["beyond"] == []
    assert told["scrolls"] <= told["width"] == width
    assert told["styled"] == "grid"  # the policy lets the page's own style through
    assert told["broken"] == 0
