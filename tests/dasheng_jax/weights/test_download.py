"""Downloads from a server on this machine: cut, resumed, moved, wrong, refused, several at once."""

import errno
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import types
import urllib.request

import pytest

from dasheng_jax.weights import download as module
from dasheng_jax.weights import hub, web
from dasheng_jax.weights.download import Wanted, download
from tests.dasheng_jax.weights.file_site import (
  CONTENT,
  CUT,
  OTHER,
  SHA256,
  Model,
  names,
  refused,
  table,
)

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def once(monkeypatch):
  """No second try."""
  monkeypatch.setattr(module, "RETRIES", 0)


def test_a_name_is_downloaded_once(site, cache):
  path = hub.resolve("model_as", table(site))
  assert path == cache / "model.pt"
  assert path.read_bytes() == CONTENT
  assert (cache / "model.pt.sha256").read_text() == f"{SHA256}  model.pt\n"
  assert names(cache) == ["model.pt", "model.pt.sha256"]
  assert hub.resolve("model_as", table(site)) == path
  assert site.asked == [(None, None)]


def test_a_published_sum_needs_no_note(site, cache):
  hub.resolve("model_as", table(site, sha256=SHA256, size=len(CONTENT)))
  assert names(cache) == ["model.pt"]


def test_a_cut_connection_is_resumed(site, cache):
  site.cuts = [CUT, CUT + 1000]
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  parts = [f"bytes={n}-" for n in (CUT, CUT + 1000)]
  assert site.asked == [(None, None), *((part, '"1"') for part in parts)]


def test_tries_are_counted_while_nothing_new_comes(site):
  """A bad line may break as often as it likes as long as each connection brings something."""
  site.cuts = list(range(100_000, CUT, 100_000))
  assert len(site.cuts) > module.RETRIES
  assert hub.resolve("model_as", table(site, sha256=SHA256)).read_bytes() == CONTENT
  site.asked, site.ranges, site.cuts = [], False, [CUT] * 9
  table_of_another = {"other": Model("other.pt", site.url)}
  refused(hub.resolve, "other", table_of_another, match="ended after 600,000 of 1,000,000 bytes")
  assert len(site.asked) == 1 + module.RETRIES


def test_a_later_call_goes_on(site, cache, once):
  site.cuts = [CUT]
  said = refused(hub.resolve, "model_as", table(site), match="0.6 MB are kept for the next call")
  assert site.url in said
  assert str(cache / "model.pt") in said
  assert not (cache / "model.pt").exists()
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert site.asked[1:] == [(f"bytes={CUT}-", '"1"')]
  assert names(cache) == ["model.pt", "model.pt.sha256"]


def test_a_server_without_parts_is_read_anew(site):
  site.cuts, site.ranges = [CUT], False
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert [wanted for wanted, _ in site.asked] == [None, f"bytes={CUT}-"]


@pytest.mark.parametrize("honest", [True, False], ids=["whole", "part"])
def test_parts_of_two_versions_are_never_joined(site, once, monkeypatch, honest):
  """The server replies to `If-Range` as it should, or sends a part of the new version."""
  site.cuts = [CUT]
  refused(hub.resolve, "model_as", table(site), match="kept")
  site.content, site.etag, site.conditions = OTHER, '"2"', honest
  monkeypatch.setattr(module, "RETRIES", 1)
  assert hub.resolve("model_as", table(site)).read_bytes() == OTHER


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_mark_only_a_published_sum_allows_resuming(site, cache, etag):
  site.etag, site.cuts = etag, [CUT]
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert site.asked == [(None, None)] * 2
  (cache / "model.pt").unlink()
  site.cuts, site.asked = [CUT], []
  assert hub.resolve("model_as", table(site, sha256=SHA256)).read_bytes() == CONTENT
  assert site.asked == [(None, None), (f"bytes={CUT}-", None)]


def partial(cache, content, url):
  cache.mkdir()
  (cache / "model.pt.partial").write_bytes(content)
  note = {"url": url, "validator": '"1"'}
  (cache / "model.pt.partial.json").write_text(json.dumps(note))


@pytest.mark.parametrize("extra", [0, 5], ids=["whole", "too-long"])
def test_a_part_past_the_end(site, cache, extra):
  """The server answers 416: a complete part is kept, any other is not."""
  partial(cache, CONTENT + bytes(extra), site.url)
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert [wanted for wanted, _ in site.asked] == [f"bytes={len(CONTENT) + extra}-"] + [None] * (
    extra > 0
  )


@pytest.mark.parametrize("note", ['{"url": "http://other/model.pt", "validator": "x"}', "{", "[]"])
def test_a_part_of_unknown_origin_is_dropped(site, cache, note):
  partial(cache, OTHER[:CUT], site.url)
  (cache / "model.pt.partial.json").write_text(note)
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert site.asked == [(None, None)]


def test_a_damaged_part_is_fetched_again(site, cache):
  partial(cache, OTHER[:CUT], site.url)
  assert hub.resolve("model_as", table(site, sha256=SHA256)).read_bytes() == CONTENT
  assert [wanted for wanted, _ in site.asked] == [f"bytes={CUT}-", None]


def test_another_file_than_was_published(site, cache):
  site.content = OTHER
  said = refused(hub.resolve, "model_as", table(site, sha256=SHA256), match="holds another file")
  assert SHA256 in said
  assert hashlib.sha256(OTHER).hexdigest() in said
  assert names(cache) == []
  site.content, site.asked = CONTENT[:-1], []
  refused(hub.resolve, "model_as", table(site, size=len(CONTENT)), match="999,999 .* are 1,000,000")
  assert names(cache) == []


def test_trouble_that_passes(site):
  site.statuses = [503, 429]
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert len(site.asked) == 3


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 4), (204, 1)])
def test_trouble_that_stays(site, cache, status, tries):
  site.statuses = [status] * 9
  said = refused(hub.resolve, "model_as", table(site), match=f"the server answers {status}")
  assert said.startswith("model.pt: ")
  assert f"get it from {site.url} in another way and put it at {cache / 'model.pt'}" in said
  assert len(site.asked) == tries
  assert names(cache) == []


def test_no_server(site, cache, capsys):
  site.server_close()
  said = refused(hub.resolve, "model_as", table(site), match="refused")
  assert capsys.readouterr().err.count("trying again") == module.RETRIES
  assert f"get it from {site.url} in another way and put it at {cache / 'model.pt'}" in said


def test_a_server_that_keeps_silent(site, once, monkeypatch):
  site.delay = 1.0
  monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.1)
  refused(hub.resolve, "model_as", table(site), match="timed out")


def test_a_web_page_is_no_file(site, cache):
  site.kind = "text/html; charset=utf-8"
  refused(hub.resolve, "model_as", table(site), match="web page in its place")
  assert names(cache) == []


def test_a_length_is_needed(site, cache):
  """Without it, and without a sum, a cut would go unnoticed; with chunks it would not."""
  site.lengths, site.etag = False, ""
  refused(hub.resolve, "model_as", table(site), match="does not say how long it is")
  site.chunked = True
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  (cache / "model.pt").unlink()
  site.chunked = False
  assert hub.resolve("model_as", table(site, sha256=SHA256)).read_bytes() == CONTENT


def test_redirects(site, cache):
  site.redirect = f"http://127.0.0.1:{site.server_port}/moved"
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  (cache / "model.pt").unlink()
  for target in ("ftp://127.0.0.1/model.pt", "file:///etc/hostname"):
    site.redirect = target
    refused(hub.resolve, "model_as", table(site), match="unknown url type|not allowed")
  site.redirect = site.url
  refused(hub.resolve, "model_as", table(site), match="infinite loop")
  assert names(cache) == ["model.pt.sha256"]


def test_no_redirect_from_https_to_http():
  handlers = web._opener().handlers
  (redirects,) = (h for h in handlers if isinstance(h, urllib.request.HTTPRedirectHandler))
  secure = urllib.request.Request("https://a/x")
  with pytest.raises(web.Failed, match="from https to http$"):
    redirects.redirect_request(secure, None, 302, "", {}, "http://a/x")
  assert redirects.redirect_request(secure, None, 302, "", {}, "https://b/x").full_url


@pytest.mark.parametrize(
  "url", ["ftp://host/model.pt", "file:///etc/hostname", "model.pt", "http:"]
)
def test_other_addresses_are_refused(cache, url):
  refused(download, Wanted(url, cache / "model.pt"), match="no http or https address")
  assert not cache.exists()


def test_several_at_once_download_once(site, cache, capsys):
  site.gate.clear()
  found, waiting = [], 0
  one = lambda: found.append(hub.resolve("model_as", table(site)).read_bytes())  # noqa: E731
  threads = [threading.Thread(target=one) for _ in range(4)]
  for thread in threads:
    thread.start()
  until = time.monotonic() + 30
  while waiting < 3 and time.monotonic() < until:
    time.sleep(0.02)
    waiting += capsys.readouterr().err.count("waiting for it")
  assert waiting == 3
  site.gate.set()
  for thread in threads:
    thread.join(30)
  assert found == [CONTENT] * 4
  assert len(site.asked) == 1
  assert names(cache) == ["model.pt", "model.pt.sha256"]


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_no_more(site, cache):
  partial(cache, CONTENT[:CUT], site.url)
  command = [sys.executable, "-S", "-c", HOLD, str(cache / "model.pt.partial")]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
    assert other.stdout.readline() == b"held\n"
    thread = threading.Thread(target=hub.resolve, args=("model_as", table(site)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert not site.asked
    other.kill()
    thread.join(30)
  assert (cache / "model.pt").read_bytes() == CONTENT
  assert site.asked == [(f"bytes={CUT}-", '"1"')]


def test_where_there_are_no_locks(site, cache, monkeypatch):
  def flock(*args):
    raise OSError(errno.ENOLCK, "no locks")

  monkeypatch.setattr(fcntl, "flock", flock)
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT
  assert names(cache) == ["model.pt", "model.pt.sha256"]


def test_a_full_disk(site, cache, monkeypatch):
  full = types.SimpleNamespace(free=len(CONTENT) - 1)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda folder: full)
    refused(hub.resolve, "model_as", table(site), match=f"1 MB, {cache} has 1 MB free.*{hub.CACHE}")
  monkeypatch.setenv(hub.CACHE, "/dev/full/cache")
  refused(hub.resolve, "model_as", table(site), match=f"cannot be written.*{hub.CACHE}")


def test_the_meter():
  meter = module._Meter("model.pt")
  meter.start(50_000_000, 100_000_000)
  meter.add(10_000_000)
  meter._begin = time.monotonic() - 10.0
  # The rate is of what came, not of what an earlier call left.
  assert meter.line() == "model.pt: 60.0/100.0 MB, 1.0 MB/s, 40 s left"
  meter.start(60_000_000, None)
  assert meter.line() == "model.pt: 60.0 MB, 1.0 MB/s"


def test_slow_downloads_show_progress(site, capsys, monkeypatch):
  monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
  hub.resolve("model_as", table(site))
  said = capsys.readouterr().err.splitlines()
  assert said[0].startswith("downloading model.pt from 127.0.0.1 to ")
  # Among them may be what the server has to say of a connection that was closed.
  shown = [line for line in said if line.startswith("model.pt: ")]
  assert shown[-1].startswith("model.pt: 1.0/1.0 MB, ")
