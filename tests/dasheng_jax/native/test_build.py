"""The build is lazy, cached, whole or absent, and its failure is one logged line."""

import importlib
import logging
import re
import shutil
import subprocess
import sys

import pytest

import dasheng_jax.native.kernels
import mobile_jax.native.build
from dasheng_jax.native import build

LIBRARIES = {
  "dasheng_jax": dasheng_jax.native.kernels.LIBRARY,
  "mobile_jax": mobile_jax.native.build.LIBRARY,
}
LAZY = """
import sys
import {0}.native
assert "{0}.native.build" not in sys.modules and "{0}.native.kernels" not in sys.modules
"""


@pytest.fixture(params=LIBRARIES)
def library(request):
  return LIBRARIES[request.param]


def built(library):
  """Asked as if for the first time."""
  return build.Library.available.__wrapped__(library)


@pytest.mark.parametrize("package", LIBRARIES)
def test_importing_loads_and_builds_nothing(package):
  code = LAZY.format(package)
  subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("package", LIBRARIES)
def test_unknown_names_are_refused(package):
  native = importlib.import_module(f"{package}.native")
  with pytest.raises(AttributeError, match="no attribute 'softmax'"):
    native.softmax  # noqa: B018


def test_every_target_is_an_entry_point(library):
  text = (library.folder / "ffi.cc").read_text()
  assert re.findall(r"^NATIVE_TARGET\((\w+), ", text, re.MULTILINE) == list(library.targets)


@pytest.mark.slow
def test_one_build_serves_everyone(library, tmp_path, monkeypatch):
  if not any(shutil.which(name) for name in build.COMPILERS):
    pytest.skip("needs a C++ compiler")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  path = library.path()
  assert list((tmp_path / library.package).iterdir()) == [path]  # nothing half-made is left
  made = path.stat().st_mtime_ns
  assert library.path() == path
  assert path.stat().st_mtime_ns == made
  monkeypatch.setattr(build, "_processor", lambda: "another processor")
  monkeypatch.setattr(build, "_build", lambda sources, compiler, flags, other: None)
  assert library.path() != path


def test_switched_off(library, monkeypatch):
  monkeypatch.setenv(library.switch, "0")
  monkeypatch.setattr(build.Library, "path", lambda self: pytest.fail("nothing may be built"))
  assert not built(library)


def test_a_failed_build_is_one_line_with_the_reason(library, tmp_path, monkeypatch, caplog):
  broken = tmp_path / "broken"
  broken.write_text("#!/bin/sh\necho 'x.cc:1: error: no such thing' >&2\necho more >&2\nexit 1\n")
  broken.chmod(0o755)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv(library.switch, "1")
  monkeypatch.setattr(build, "COMPILERS", (str(broken),))
  with caplog.at_level(logging.WARNING, library.package):
    assert not built(library)
  (record,) = caplog.records
  message = record.getMessage()
  assert "x.cc:1: error: no such thing" in message
  assert library.switch in message
  assert "\n" not in message
  assert not any((tmp_path / library.package).iterdir())


def test_no_compiler_is_named(library, monkeypatch, caplog):
  monkeypatch.setenv(library.switch, "1")
  monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
  with caplog.at_level(logging.WARNING, library.package):
    assert not built(library)
  assert "none of no-such-compiler is installed" in caplog.text
