"""The build is lazy, cached, whole or absent, and its failure is one logged line."""

import logging
import shutil
import subprocess
import sys

import pytest

from mobile_jax.native import build

LAZY = """
import sys
import mobile_jax.native
assert "jax" not in sys.modules and "mobile_jax.native.build" not in sys.modules
"""


def test_importing_loads_and_builds_nothing():
  subprocess.run([sys.executable, "-c", LAZY], check=True, timeout=60)


def test_unknown_names_are_refused():
  import mobile_jax.native

  with pytest.raises(AttributeError, match="no attribute 'softmax'"):
    mobile_jax.native.softmax  # noqa: B018


@pytest.mark.slow
def test_one_build_serves_everyone(tmp_path, monkeypatch):
  if not any(shutil.which(name) for name in build.COMPILERS):
    pytest.skip("needs a C++ compiler")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  path = build.library()
  assert list((tmp_path / "mobile_jax").iterdir()) == [path]  # nothing half-made is left
  made = path.stat().st_mtime_ns
  assert build.library() == path
  assert path.stat().st_mtime_ns == made
  monkeypatch.setattr(build, "_processor", lambda: "another processor")
  monkeypatch.setattr(build, "_build", lambda compiler, flags, other: None)
  assert build.library() != path


def test_switched_off(monkeypatch):
  monkeypatch.setenv(build.SWITCH, "0")
  monkeypatch.setattr(build, "library", lambda: pytest.fail("nothing may be built"))
  assert not build.available.__wrapped__()


def test_a_failed_build_is_one_line_with_the_reason(tmp_path, monkeypatch, caplog):
  broken = tmp_path / "broken"
  broken.write_text("#!/bin/sh\necho 'x.cc:1: error: no such thing' >&2\necho more >&2\nexit 1\n")
  broken.chmod(0o755)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv(build.SWITCH, "1")
  monkeypatch.setattr(build, "COMPILERS", (str(broken),))
  with caplog.at_level(logging.WARNING, "mobile_jax"):
    assert not build.available.__wrapped__()
  (record,) = caplog.records
  message = record.getMessage()
  assert "x.cc:1: error: no such thing" in message
  assert build.SWITCH in message
  assert "\n" not in message
  assert not any((tmp_path / "mobile_jax").iterdir())


def test_no_compiler_is_named(monkeypatch, caplog):
  monkeypatch.setenv(build.SWITCH, "1")
  monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
  with caplog.at_level(logging.WARNING, "mobile_jax"):
    assert not build.available.__wrapped__()
  assert "none of no-such-compiler is installed" in caplog.text
