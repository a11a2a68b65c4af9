"""How long a start takes, and where compiled programs are kept."""

import subprocess
import sys
import time

import jax
import pytest

from experiments.training import startup
from experiments.training.errors import UsageError


@pytest.fixture
def _untold():
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_seconds_since_the_process_began():
  script = (
    "import time; began = time.time(); time.sleep(0.5); "
    "from experiments.training.startup import process_seconds; "
    "print(process_seconds(), time.time() - began)"
  )
  began = time.time()
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
  whole, inside = map(float, done.stdout.split())
  assert inside - 0.1 <= whole <= time.time() - began + 0.1


@pytest.mark.usefixtures("_untold")
def test_where_programs_are_kept(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert startup.keep_programs("none") is None
  assert startup.keep_programs("auto") is None  # on a CPU
  assert jax.config.jax_compilation_cache_dir is None
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert startup.keep_programs("auto") == tmp_path / "dasheng_jax" / "programs"
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "dasheng_jax" / "programs")
  assert startup.keep_programs(str(tmp_path / "other")) == tmp_path / "dasheng_jax" / "programs"


@pytest.mark.usefixtures("_untold")
def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match="--compile_cache .*file/x: Not a directory; name another"):
    startup.keep_programs(str(tmp_path / "file" / "x"))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert startup.keep_programs("auto") is None  # it can do without
