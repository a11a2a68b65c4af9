"""A conversion holds little beside its largest tensor."""

import pytest

from experiments import bench_convert


@pytest.mark.slow
def test_memory_stays_below_the_file(tmp_path, capsys):
  """Of base the programs themselves are most of it, so what is compared is two sizes of file."""
  small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
  bench_convert.write_random("dasheng_base", small)
  bench_convert.write_random("dasheng_0_6b", large)
  for kind, allowed in (("huggingface", 0.1), ("orbax", 1.3)):
    peaks = [
      bench_convert.measured(path, tmp_path / f"{path.stem}_{kind}", kind)[0]
      for path in (small, large)
    ]
    growth = large.stat().st_size - small.stat().st_size
    assert peaks[1] - peaks[0] <= allowed * growth, kind
