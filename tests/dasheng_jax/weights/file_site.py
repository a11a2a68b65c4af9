"""A server of one file on this machine that can misbehave, and what the tests of names share."""

import hashlib
import http.server
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest

from dasheng_jax.errors import WeightsError

CONTENT = np.random.default_rng(0).integers(0, 256, 1_000_000, np.uint8).tobytes()
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 600_000


class Model(NamedTuple):
  """A line of a table of published models."""

  file: str
  url: str
  hub: str = ""
  sha256: str | None = None
  size: int | None = None


class Site(http.server.ThreadingHTTPServer):
  """A server of one file. asked: (Range, If-Range) of every request that it got for the file."""

  daemon_threads = True

  def __init__(self):
    super().__init__(("127.0.0.1", 0), Handler)
    self.content, self.etag = CONTENT, '"1"'
    self.ranges = self.conditions = self.lengths = True
    self.chunked = False
    self.cuts, self.statuses = [], []  # consumed, one by each request
    self.kind, self.redirect, self.delay = "application/octet-stream", "", 0.0
    self.gate = threading.Event()  # of the first byte of any reply
    self.gate.set()
    self.asked = []

  @property
  def url(self):
    return f"http://127.0.0.1:{self.server_port}/files/model.pt?download=1"


class Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *args):
    pass

  def setup(self):
    self.protocol_version = "HTTP/1.1" if self.server.chunked else "HTTP/1.0"
    super().setup()

  def do_GET(self):
    site = self.server
    if site.redirect and not self.path.startswith("/moved"):
      return self.head(302, Location=site.redirect)
    wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
    site.asked.append((wanted, version))
    time.sleep(site.delay)
    site.gate.wait(30)
    status = site.statuses.pop(0) if site.statuses else 200
    if status != 200:
      return self.head(status, Content_Length="0", Retry_After="0")
    mark = {"ETag": site.etag} if site.etag else {}
    total, begin = len(site.content), 0
    if site.ranges and wanted and (version in (None, site.etag) or not site.conditions):
      begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
      if begin >= total:
        return self.head(416, Content_Range=f"bytes */{total}", Content_Length="0")
      status, mark["Content-Range"] = 206, f"bytes {begin}-{total - 1}/{total}"
    if site.chunked:
      mark["Transfer-Encoding"] = "chunked"
    elif site.lengths:
      mark["Content-Length"] = str(total - begin)
    self.head(status, Content_Type=site.kind, **mark)
    body = site.content[begin : site.cuts.pop(0) if site.cuts else None]
    if not site.chunked:
      return self.wfile.write(body)
    self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

  def head(self, status, **headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Connection", "close")
    self.end_headers()


def table(site, **changes):
  return {"model_as": Model("model.pt", site.url, **changes)}


def refused(call, *args, match):
  with pytest.raises(WeightsError, match=match) as caught:
    call(*args)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def names(folder):
  return sorted(path.name for path in folder.iterdir())
