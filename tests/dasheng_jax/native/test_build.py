"""The build is lazy, cached, whole or absent, and its failure is one logged line."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

import dasheng_jax.native.kernels
import mobile_jax.native.build
from dasheng_jax.native import build, cache

LIBRARIES = {
  "dasheng_jax": dasheng_jax.native.kernels.LIBRARY,
  "mobile_jax": mobile_jax.native.build.LIBRARY,
}
LAZY = """
import sys
import {0}.native
assert "{0}.native.build" not in sys.modules and "{0}.native.kernels" not in sys.modules
"""
ENTRY = 'extern "C" __attribute__((visibility("default"))) int {}() {{ return 0; }}\n'
FAILS = "#!/bin/sh\n{}\nexit 1\n"


@pytest.fixture(params=LIBRARIES)
def library(request):
  return LIBRARIES[request.param]


def built(library):
  """Asked as if for the first time."""
  return build.Library.available.__wrapped__(library)


class Toy:
  """A library of one empty entry point, which compiles at once; JAX does not get to see it."""

  def __init__(self, folder, monkeypatch):
    for place, name, text in (
      ("source", "ffi.cc", ENTRY.format("toy")),
      ("source", "part.cc", "int part() { return 1; }\n"),
    ):
      (folder / place).mkdir(exist_ok=True)
      (folder / place / name).write_text(text)
    self.folder = folder
    self.library = build.Library("toy", folder / "source", ("toy",))
    self.cache = folder / "home" / "toy"
    self.registered: list[str] = []
    monkeypatch.setattr(build, "SHARED", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    monkeypatch.delenv("TOY_NATIVE", raising=False)
    monkeypatch.setattr(
      build.jax.ffi, "register_ffi_target", lambda name, *_, **__: self.registered.append(name)
    )

  def path(self):
    """The only thing in the cache."""
    (path,) = self.cache.iterdir()
    return path

  def compiler(self, name, script):
    """A compiler that is a shell script."""
    path = self.folder / name
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
  if not any(shutil.which(name) for name in build.COMPILERS):
    pytest.skip("needs a C++ compiler")
  return Toy(tmp_path, monkeypatch)


@pytest.fixture
def never_built(monkeypatch):
  """What the cache has must do from here on."""

  def stop():
    monkeypatch.setattr(build, "_build", lambda *a: pytest.fail("must not be built again"))

  return stop


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


def test_one_build_serves_everyone(toy, monkeypatch, never_built):
  assert built(toy.library)
  path = toy.path()  # nothing half-made is left beside it
  os.utime(path, (0, 0))
  before = path.stat()
  never_built()
  assert built(toy.library)
  after = toy.path().stat()
  assert after.st_ino == before.st_ino
  assert after.st_mtime > before.st_mtime  # so that it is kept as long as it is used
  assert toy.registered == ["toy", "toy"]
  (compiler, *_) = build._compilers()
  assert toy.library._key(compiler) in path.name
  monkeypatch.setattr(build, "_processor", lambda: "another processor")
  assert toy.library._key(compiler) not in path.name


@pytest.mark.parametrize("left", ["nothing", "half", "text", "all but the end"])
def test_a_damaged_library_is_made_anew(toy, left, monkeypatch, never_built):
  """None is ever loaded: a cut-off one would end the process."""
  built(toy.library)
  path = toy.path()
  whole = path.read_bytes()
  parts = {"nothing": b"", "half": whole[: len(whole) // 2], "text": b"hello"}
  path.write_bytes(parts.get(left, whole[:-40]))
  loaded = []
  monkeypatch.setattr(build, "_register", lambda path, targets: loaded.append(path.read_bytes()))
  assert built(toy.library)
  assert len(toy.path().read_bytes()) == len(whole)
  assert loaded == [toy.path().read_bytes()]
  never_built()
  assert built(toy.library)


def test_a_whole_library_that_lacks_an_entry_point_stays(toy, never_built, caplog):
  source = toy.library.folder / "ffi.cc"
  right = source.read_text()
  source.write_text(ENTRY.format("other"))
  with pytest.raises(OSError, match="lacks an entry point"):
    toy.library.load()
  wrong = toy.path()
  source.write_text(right)
  # Whole by its digest, and under the key of the right sources.
  key = toy.library._key(build._compilers()[0])
  wrong = wrong.rename(toy.cache / cache._name(key, wrong))
  never_built()
  assert not built(toy.library)
  (record,) = caplog.records
  assert "lacks an entry point" in record.getMessage()
  assert not toy.registered
  assert toy.path() == wrong


@pytest.mark.parametrize("known", [True, False], ids=["kept", "just built"])
def test_a_whole_library_that_does_not_load_stays(toy, known, monkeypatch, never_built, caplog):
  """The fault may be this process's alone, and the file everyone's."""
  if known:
    assert built(toy.library)
    before = toy.path().stat().st_ino

  def refuse(path):
    raise OSError(f"{path}: failed to map segment from shared object\nOperation not permitted")

  with monkeypatch.context() as patch:
    patch.setattr(build.ctypes, "CDLL", refuse)
    if known:
      never_built()
    assert not built(toy.library)
  (record,) = caplog.records
  message = record.getMessage()
  assert f"cannot be loaded: {toy.path()}: failed to map segment" in message
  assert "XDG_CACHE_HOME" in message
  assert "TOY_NATIVE=0" in message
  assert "compiler" not in message
  assert "\n" not in message
  if known:
    assert toy.path().stat().st_ino == before
  never_built()
  assert built(toy.library)  # the fault has passed


def test_where_one_library_does_not_load_that_of_another_compiler_may(
  toy, monkeypatch, never_built
):
  assert built(toy.library)
  real = build._compilers()[0]
  # Text under the right digest: whole, and no library.
  first = toy.compiler("first", "#!/bin/sh\necho first\n")
  text = toy.folder / "text"
  text.write_text("no library")
  whole = cache.place(text, toy.cache, toy.library._key(first))
  monkeypatch.setattr(build, "COMPILERS", (first, real))
  never_built()
  assert built(toy.library)
  assert whole.exists()


def test_an_entry_point_that_is_not_even_built_is_one_line(toy, caplog):
  (toy.library.folder / "ffi.cc").write_text(ENTRY.format("other"))
  assert not built(toy.library)
  (record,) = caplog.records
  assert "lacks an entry point" in record.getMessage()
  assert not toy.registered


def test_switched_off(library, monkeypatch):
  monkeypatch.setenv(library.switch, "0")
  monkeypatch.setattr(build.Library, "load", lambda self: pytest.fail("nothing may be built"))
  assert not built(library)


def test_a_failed_build_is_one_line_with_the_reason(library, tmp_path, monkeypatch, caplog):
  broken = tmp_path / "broken"
  broken.write_text(FAILS.format("echo 'x.cc:1: error: no such thing' >&2\necho more >&2"))
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


def test_a_compiler_may_speak_any_encoding(toy, monkeypatch, caplog):
  # The same in its version, which goes into the key.
  script = FAILS.format("printf 'x.cc: error: \\377\\376 bad' | tee /dev/stderr")
  monkeypatch.setattr(build, "COMPILERS", (toy.compiler("odd", script),))
  assert not built(toy.library)
  (record,) = caplog.records
  assert "x.cc: error: \ufffd\ufffd bad" in record.getMessage()


@pytest.mark.parametrize("script", [FAILS.format("echo 'x: error: broken' >&2"), "no script"])
def test_the_next_compiler_takes_over(toy, script, monkeypatch, never_built):
  broken = toy.compiler("broken", script)
  monkeypatch.setattr(build, "COMPILERS", (broken, *build.COMPILERS))
  assert built(toy.library)
  never_built()  # nor is the broken one asked again
  assert built(toy.library)


@pytest.fixture
def hanging(toy, monkeypatch):
  """Of two compilers the first hangs, for its version or when it compiles; the other is quick."""
  assert built(toy.library)
  made = toy.folder / "made.so"
  toy.path().rename(made)
  toy.registered.clear()
  copies = f"""#!/bin/sh
[ "$1" = --version ] && echo quick && exit
for last; do :; done
cp {made} "$last"
"""
  monkeypatch.setattr(build, "TIMEOUT_SECONDS", 1.5)

  def prepare(when, other=copies):
    # Its own child hangs where it compiles, and has the pipe for messages open.
    hangs = {
      "version": "exec sleep 100",
      "compiling": '[ "$1" = --version ] && echo hangs && exit\nsleep 100',
    }
    asked = toy.folder / "asked"
    first = toy.compiler("hangs", f'#!/bin/sh\necho "$1" >> {asked}\n{hangs[when]}\n')
    monkeypatch.setattr(build, "COMPILERS", (first, toy.compiler("quick", other)))
    return first, asked

  return prepare


@pytest.mark.parametrize("when", ["version", "compiling"])
def test_a_compiler_that_hangs_is_passed_over(toy, hanging, when):
  _, asked = hanging(when)
  start = time.monotonic()
  assert built(toy.library)
  assert time.monotonic() - start < 50
  assert toy.registered == ["toy"]
  assert asked.read_text().count("--version") == 1  # the wait is not taken twice
  toy.path()


@pytest.mark.parametrize("when", ["version", "compiling"])
def test_of_compilers_that_hang_the_first_is_named(toy, hanging, when, caplog):
  first, _ = hanging(when, FAILS.format("echo 'error: of the other' >&2"))
  assert not built(toy.library)
  (record,) = caplog.records
  assert f"the C++ compiler {first} took more than 1.5 s" in record.getMessage()
  assert "they need a C++17 compiler" in record.getMessage()


def test_what_the_next_compiler_makes_may_not_load(toy, hanging, caplog):
  script = '#!/bin/sh\n[ "$1" = --version ] && exit\nfor last; do :; done\necho text > "$last"\n'
  hanging("version", script)
  assert not built(toy.library)
  (record,) = caplog.records
  assert f"cannot be loaded: {toy.path()}" in record.getMessage()
  assert "C++17" not in record.getMessage()


def test_of_several_broken_compilers_the_first_is_named(toy, monkeypatch, caplog):
  broken = [toy.compiler(n, FAILS.format(f"echo 'error: of {n}' >&2")) for n in ("one", "two")]
  monkeypatch.setattr(build, "COMPILERS", tuple(broken))
  assert not built(toy.library)
  (record,) = caplog.records
  assert "error: of one" in record.getMessage()
  assert "error: of two" not in record.getMessage()


def test_no_compiler_is_named(library, monkeypatch, caplog):
  monkeypatch.setenv(library.switch, "1")
  monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
  with caplog.at_level(logging.WARNING, library.package):
    assert not built(library)
  assert "none of no-such-compiler is installed" in caplog.text


def test_a_build_sweeps_the_cache(toy, monkeypatch):
  swept = []
  monkeypatch.setattr(cache, "sweep", lambda folder, now: swept.append((folder, now)))
  built(toy.library)
  assert swept == [(toy.cache, toy.path().stat().st_mtime)]
  built(toy.library)
  assert len(swept) == 1
