"""One request for a file, or for the rest of one, over http or https.

Nothing but the standard library, and that when it is called: a program that downloads nothing does
not pay for it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# Without a single byte.
TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 18
# Answers that may be others a moment later.
PASSING = (408, 425, 429, 500, 502, 503, 504)


class Failed(Exception):
  """The file cannot be had this way; the message says why."""


class Passing(Exception):
  """Trouble that a new try may not meet.

  wait: seconds before it, where they are known. restart: whether it has to begin at the first byte.
  """

  def __init__(self, reason: str, wait: float | None = None, restart: bool = False):
    super().__init__(reason)
    self.wait, self.restart = wait, restart


class Reply(NamedTuple):
  """What a server sends.

  begin: the first byte. total: bytes of the whole file, None where the server keeps that to itself.
  validator: its mark of the file's version, "" for none. chunks: the bytes; raises Passing when
  they stop coming. page: whether it is a web page. framed: whether a cut would be noticed.
  """

  begin: int
  total: int | None
  validator: str
  chunks: Iterator[bytes]
  page: bool = False
  framed: bool = True


@contextlib.contextmanager
def ask(url: str, have: int = 0, validator: str = "") -> Iterator[Reply]:
  """Asks for a file, or for what follows its first `have` bytes if it still is that version.

  A server that knows no parts, or another version, sends the whole (`begin` is 0). Raises Failed or
  Passing for all that goes wrong on the way.
  """
  from http.client import HTTPException
  from urllib.error import HTTPError
  from urllib.request import Request

  headers = {"User-Agent": "dasheng-jax", "Accept-Encoding": "identity"}
  if have:
    headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
  try:
    response = _opener().open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
  except HTTPError as answer:
    with answer:
      if answer.code != 416 or not have:
        raise _refusal(answer) from None
      if answer.headers.get("Content-Range") != f"bytes */{have}":
        raise Passing("the server has no such part of it", 0.0, restart=True) from None
    yield Reply(have, have, validator, iter(()))
    return
  except (OSError, HTTPException) as problem:
    raise _trouble(problem) from None
  with response:
    yield _reply(response, have, validator)


def _opener() -> Any:
  """Opens http and https alone (urllib's own follows to ftp too), and never follows to less."""
  from urllib import request

  class Redirects(request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
      if req.full_url.startswith("https:") and not newurl.startswith("https:"):
        raise Failed(f"the server sends us on from https to {newurl.partition(':')[0]}")
      return super().redirect_request(req, fp, code, msg, headers, newurl)

  opener = request.OpenerDirector()
  for handler in (
    request.ProxyHandler(),
    request.UnknownHandler(),
    request.HTTPHandler(),
    request.HTTPSHandler(),
    request.HTTPDefaultErrorHandler(),
    request.HTTPErrorProcessor(),
    Redirects(),
  ):
    opener.add_handler(handler)
  return opener


def _refusal(answer: Any) -> Exception:
  """The error for a status of 300 and more."""
  reason = f"the server answers {answer.code} {' '.join(str(answer.reason).split())}".rstrip()
  if answer.code not in PASSING:
    return Failed(reason)
  asked = answer.headers.get("Retry-After", "")
  return Passing(reason, float(asked) if asked.isdecimal() else None)


def _trouble(problem: BaseException) -> Exception:
  """The error for a connection that fails."""
  import ssl
  from urllib.error import URLError

  cause = problem.reason if isinstance(problem, URLError) else problem
  text = " ".join(str(cause).split()) or type(cause).__name__
  # urllib gives text alone where no try can help, as for an unknown scheme.
  return (Failed if isinstance(cause, str | ssl.SSLCertVerificationError) else Passing)(text)


def _reply(response: Any, have: int, validator: str) -> Reply:
  headers = response.headers
  mark = _validator(headers)
  page = headers.get_content_type() == "text/html"
  if response.status == 206:
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    other = bool(mark and validator and mark != validator)
    if part is None or int(part[1]) != have or other:
      raise Passing("the server sends another part than was asked for", 0.0, restart=True)
    return Reply(have, int(part[2]), validator, _chunks(response), page)
  if response.status != 200:
    raise Failed(f"the server answers {response.status} {response.reason}".rstrip())
  length = headers.get("Content-Length", "")
  total = int(length) if length.isdecimal() else None
  framed = total is not None or bool(response.chunked)
  return Reply(0, total, mark, _chunks(response), page, framed)


def _chunks(response: Any) -> Iterator[bytes]:
  from http.client import HTTPException

  while True:
    try:
      chunk = response.read(CHUNK_BYTES)
    except (OSError, HTTPException) as problem:
      raise _trouble(problem) from None
    if not chunk:
      return
    yield chunk


def _validator(headers: Any) -> str:
  """The strong mark of a file's version that `If-Range` takes; "" for none."""
  etag = headers.get("ETag", "")
  return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
