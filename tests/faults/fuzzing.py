"""Runs a reader's fuzzing in a child process and explains how it ended."""

import json
import os
import pathlib
import subprocess
import sys

from tests.faults.child import LAST, Tally

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 900  # for one reader; a quiet machine takes a tenth of it


def run(module: str, name: str, count: int, folder: pathlib.Path, quiet: bool = True) -> None:
  """Feeds `count` damaged files to a reader; fails with what broke it, and where the input is.

  quiet: nothing may print a stack trace meanwhile.
  """
  folder.mkdir()
  command = [sys.executable, "-W", "ignore", "-m", "tests.faults.child"]
  done = subprocess.run(
    [*command, f"tests.faults.{module}", name, str(count), str(folder)],
    cwd=ROOT,
    env={
      **os.environ,
      "AUDIO_INDEX_CACHE": "off",
      "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
      "JAX_PLATFORMS": "cpu",
    },
    capture_output=True,
    text=True,
    errors="replace",
    timeout=SECONDS,
    check=False,
  )
  lines = [x for x in done.stderr.splitlines() if not x.startswith(("Note: ", "[src/libmpg123"))]
  end = "\n".join(lines[-60:])
  assert done.returncode == 0, (
    f"{name}: exit code {done.returncode} at the input in {folder / LAST}\n{end}"
  )
  tally = Tally(**json.loads(done.stdout.splitlines()[-1]))
  print(f"{name}: {tally}")
  assert tally.inputs >= count
  assert tally.refused > 0, "no input was found to be damaged"
  assert not quiet or "Traceback" not in done.stderr, end
