"""A server of one file, and a cache folder that is the test's own."""

import threading

import pytest

from dasheng_jax.weights import download, hub
from tests.dasheng_jax.weights.file_site import Site


@pytest.fixture
def site():
  server = Site()
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache folder of its own, no proxy, no waiting, and never the user's settings."""
  for name in (*hub.OFFLINE, "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("no_proxy", "*")
  monkeypatch.setenv(hub.CACHE, str(tmp_path / "cache"))
  monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
  monkeypatch.chdir(tmp_path)
  return tmp_path / "cache"
