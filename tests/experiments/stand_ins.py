"""Packages in place of `heareval`, `xares` and PyTorch: what their workers ask of them, no more."""

import textwrap

TORCH = """
  class nn:
    class Module: pass
  def set_num_threads(count): assert count == 1
  def manual_seed(seed): global drawn; drawn = seed
"""

HEAREVAL = """
  import json, pathlib, types
  import numpy as np, torch

  def seed_everything(seed, workers): raise AssertionError("not the package's own")

  def get_splits_from_metadata(metadata):
    return [{"test": [part]} for part in metadata["splits"]]

  def task_predictions_train(conf):
    return types.SimpleNamespace(validation_score=conf["lr"], epoch=5, conf=conf)

  def task_predictions(
    embedding_path, embedding_size, grid_points, gpus, in_memory, deterministic, grid, logger
  ):
    seed_everything(42, workers=False)
    print('{"libraries": "print what they like"}')
    metadata = json.loads((embedding_path / "task_metadata.json").read_text())
    splits = get_splits_from_metadata(metadata)
    rates = [0.5 / 2**i for i in range(grid_points)]
    confs = [
      {"hidden_layers": 1, "lr": rate, "initialization": "<function xavier_normal_>"}
      for rate in rates
    ]
    for conf in confs:
      task_predictions_train(conf=conf)
    told = {}
    for split in splits:
      part = split["test"][0]
      shape = json.loads((embedding_path / f"{part}.embedding-dimensions.json").read_text())
      x = np.memmap(embedding_path / f"{part}.embeddings.npy", np.float32, "r", shape=tuple(shape))
      assert shape[1] == embedding_size and np.isfinite(x).all()
      figures = {"test_loss": 1.0, "test_score": 0.75, "test_top1_acc": 0.75 + torch.drawn / 100}
      told[part] = {**figures, "validation_score": 0.5}
    told["hparams"] = confs[0]
    (embedding_path / "test.predicted-scores.json").write_text(json.dumps(told))
"""

XARES = """
  import io, json, pathlib, tarfile
  import jiwer, numpy as np, torchaudio, transformers  # stand-ins of the worker

  class TaskConfig:
    def __init__(self, **settings): self.__dict__.update(settings)

  class XaresTask:
    def __init__(self, config):
      self.config = config
      self.ckpt_dir = pathlib.Path(config.env_root) / "checkpoints"

    def run_mlp(self): return self.score(self.config.seed / 100), 0

    def run_knn(self): return self.score(0.0), 0

    def score(self, more):
      (self.ckpt_dir / "score.txt").write_text("0")
      with tarfile.open(next(iter(self.encoded_tar_path_of_split.values()))) as tar:
        rows = {m.name: tar.extractfile(m).read() for m in tar}
      notes = [json.loads(row) for name, row in rows.items() if name.endswith(".json")]
      arrays = [np.load(io.BytesIO(row)) for name, row in rows.items() if name.endswith(".npy")]
      assert {a.shape for a in arrays} == {(1, self.config.encoder.output_dim)}
      labels = [self.config.label_processor(note) for note in notes]
      return float(np.mean(np.array(labels) == 0)) + more
"""


def write(folder, package):
  """Writes `package` and torch to a folder for `--package`."""
  files = {"torch.py": TORCH}
  if package == "heareval":
    files |= {"heareval/__init__.py": "", "heareval/predictions/__init__.py": ""}
    files["heareval/predictions/task_predictions.py"] = HEAREVAL
  else:
    files |= {"xares/__init__.py": "", "xares/task.py": XARES}
  for name, text in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text))
  return str(folder)


def write_broken(folder, package):
  """One whose dependencies are missing."""
  (folder / package).mkdir(parents=True)
  (folder / package / "__init__.py").write_text("import a_library_that_is_absent")
  return str(folder)
