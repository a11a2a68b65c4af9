"""The table of published models against section 8 of the reference text, line by line."""

import hashlib

import pytest

import mobile_jax
from dasheng_jax.errors import ConfigError
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.models import MODELS, RELEASE, published

# name -> (file, mean average precision in percent)
FILES = {
  "mn10_im_pytorch": ("mn10_im_pytorch.pt", None),
  **{f"mn{n}_im": (f"mn{n}_im.pt", None) for n in ("01", "02", "04", "05", "10", "20", "30", "40")},
  "mn01_as": ("mn01_as_mAP_298.pt", 29.8),
  "mn02_as": ("mn02_as_mAP_378.pt", 37.8),
  "mn04_as": ("mn04_as_mAP_432.pt", 43.2),
  "mn05_as": ("mn05_as_mAP_443.pt", 44.3),
  "mn10_as": ("mn10_as_mAP_471.pt", 47.1),
  "mn20_as": ("mn20_as_mAP_478.pt", 47.8),
  "mn30_as": ("mn30_as_mAP_482.pt", 48.2),
  "mn40_as": ("mn40_as_mAP_484.pt", 48.4),
  "mn40_as(2)": ("mn40_as_mAP_483.pt", 48.3),
  "mn40_as(3)": ("mn40_as_mAP_483(2).pt", 48.3),
  "mn40_as_no_im_pre": ("mn40_as_no_im_pre_mAP_483.pt", 48.3),
  "mn40_as_no_im_pre(2)": ("mn40_as_no_im_pre_mAP_483(2).pt", 48.3),
  "mn40_as_no_im_pre(3)": ("mn40_as_no_im_pre_mAP_482.pt", 48.2),
  "mn40_as_ext": ("mn40_as_ext_mAP_487.pt", 48.7),
  "mn40_as_ext(2)": ("mn40_as_ext_mAP_486.pt", 48.6),
  "mn40_as_ext(3)": ("mn40_as_ext_mAP_485.pt", 48.5),
  "mn10_as_hop_5": ("mn10_as_hop_5_mAP_475.pt", 47.5),
  "mn10_as_hop_15": ("mn10_as_hop_15_mAP_463.pt", 46.3),
  "mn10_as_hop_20": ("mn10_as_hop_20_mAP_456.pt", 45.6),
  "mn10_as_hop_25": ("mn10_as_hop_25_mAP_447.pt", 44.7),
  "mn10_as_mels_40": ("mn10_as_mels_40_mAP_453.pt", 45.3),
  "mn10_as_mels_64": ("mn10_as_mels_64_mAP_461.pt", 46.1),
  "mn10_as_mels_256": ("mn10_as_mels_256_mAP_474.pt", 47.4),
  "mn10_as_fc": ("mn10_as_fc_mAP_465.pt", 46.5),
  "mn10_as_fc_s2221": ("mn10_as_fc_s2221_mAP_466.pt", 46.6),
  "mn10_as_fc_s2211": ("mn10_as_fc_s2211_mAP_466.pt", 46.6),
  **{f"dymn{n}_im": (f"dymn{n}_im.pt", None) for n in ("04", "10", "20")},
  "dymn04_as": ("dymn04_as.pt", 45.0),
  "dymn10_as": ("dymn10_as.pt", 47.7),
  "dymn20_as": ("dymn20_as_mAP_493.pt", 49.3),
  "dymn20_as(1)": ("dymn20_as.pt", None),
  "dymn20_as(2)": ("dymn20_as_mAP_489.pt", 48.9),
  "dymn20_as(3)": ("dymn20_as_mAP_490.pt", 49.0),
  "dymn04_replace_se_as": ("dymn04_replace_se_as.pt", None),
  "dymn10_replace_se_as": ("dymn10_replace_se_as.pt", None),
}


SCENES = {"cp_mobile_dcase23": ("cp_mobile_dcase23.ckpt", None)}


def test_names_files_and_figures():
  assert {n: (m.file, m.mean_average_precision) for n, m in MODELS.items()} == FILES | SCENES
  assert len({m.file for m in MODELS.values()}) == len(MODELS)


@pytest.mark.parametrize("name", FILES)
def test_what_a_name_implies(name):
  """Width, hop, bands, head, strides, dynamic blocks and temperature; all else is as usual."""
  model = published(name)
  cfg, family = model.config, DyMNConfig if name.startswith("dymn") else MNConfig
  changed = {"width": int(name.removeprefix("dy")[2:4]) / 10}
  if name.endswith("_im"):
    changed |= {"temperature": 30.0} if family is DyMNConfig else {}
  if "_fc" in name:
    changed["head"] = "fully_convolutional"
  if "_s2" in name:
    changed["strides"] = tuple(int(digit) for digit in name[-4:])
  if "replace_se" in name:
    changed["dynamic"] = "replace_se"
  mel = {"hop_length": 320, "mel_bins": 128}
  if "_hop_" in name:
    mel["hop_length"] = {"5": 160, "15": 480, "20": 640, "25": 800}[name.rsplit("_", 1)[1]]
  if "_mels_" in name:
    mel["mel_bins"] = int(name.rsplit("_", 1)[1])
  assert cfg == family(**changed, mel=type(cfg.mel)(**mel))
  assert (cfg.classes, cfg.mel.sample_rate, model.licence) == (527, 32000, "MIT")


def test_addresses():
  assert MODELS["mn10_as"].url == RELEASE + "mn10_as_mAP_471.pt"
  assert MODELS["mn40_as(3)"].url.endswith("mn40_as_mAP_483%282%29.pt")
  assert all(m.url.startswith("https://") and " " not in m.url for m in MODELS.values())


def test_sums_of_the_checked_file(mobile_fixtures):
  data = (mobile_fixtures / MODELS["mn04_as"].file).read_bytes()
  assert hashlib.sha256(data).hexdigest() == mobile_jax.MODELS["mn04_as"].sha256


def test_sums_are_claimed_for_no_other_file():
  known = {name: m.sha256 for name, m in MODELS.items() if m.sha256}
  assert known == {
    "mn04_as": "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    "cp_mobile_dcase23": "41a1ff72cadb90f6ce0345ed961822f7d0a77ab92b5fcafe9e07d00d891ce118",
  }


@pytest.mark.parametrize(("wrong", "near"), [("mn10as", "mn10_as"), ("dymn20", "dymn20_as")])
def test_a_wrong_name_is_answered_with_the_nearest(wrong, near):
  for look in (MODELS.__getitem__, published):
    with pytest.raises(ConfigError, match=f"{wrong}.*{near}") as caught:
      look(wrong)
    assert "\n" not in str(caught.value)
  assert wrong not in MODELS
