"""Dasheng and MN in plain PyTorch under the released names: stand-ins for the originals."""

import torch
from torch import nn
from torch.nn import functional as F


class LogMel(nn.Module):
  """Dasheng's front end, its constants as buffers."""

  def __init__(self):
    super().__init__()
    self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
    self.spectrogram.register_buffer("window", torch.zeros(512))
    self.mel_scale.register_buffer("fb", torch.zeros(257, 64))

  def forward(self, wave):
    window = self.spectrogram.window
    spectrum = torch.stft(wave, 512, 160, window=window, pad_mode="reflect", return_complex=True)
    mel = torch.einsum("bft,fm->bmt", spectrum.abs() ** 2, self.mel_scale.fb)
    decibels = 10 * torch.log10(mel.clamp(min=1e-10))
    return decibels.clamp(min=decibels.max() - 120)


class Swap(nn.Module):
  def forward(self, x):
    return x.transpose(1, 2)


class Attention(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

  def forward(self, x):
    b, t, d = x.shape
    q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class Mlp(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.attn, self.mlp = Attention(width, heads), Mlp(width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.proj = nn.Conv2d(1, width, (64, 4), (64, 4))

  def forward(self, x):
    return self.proj(x)


class Encoder(nn.Module):
  """Dasheng; without a front end it takes log-mels, as the Hugging Face variant does."""

  def __init__(self, width=48, depth=3, heads=4, positions=252, front_end=True):
    super().__init__()
    self.positions = positions
    self.time_pos_embed = nn.Parameter(torch.zeros(1, width, 1, positions))
    self.freq_pos_embed = nn.Parameter(torch.zeros(1, width, 1, 1))
    if front_end:
      self.front_end = nn.Sequential(LogMel())
    self.init_bn = nn.Sequential(Swap(), nn.BatchNorm2d(64), Swap())
    self.patch_embed = PatchEmbed(width)
    self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
    self.norm = nn.LayerNorm(width, eps=1e-6)

  def forward(self, x):
    x = self.front_end(x) if hasattr(self, "front_end") else x
    x = self.patch_embed(self.init_bn(x[:, None]))
    chunks = x.split(self.positions, dim=-1)
    return torch.cat([self.encoded(chunk) for chunk in chunks], dim=1)

  def encoded(self, x):
    x = x + self.time_pos_embed[..., : x.shape[-1]] + self.freq_pos_embed
    return self.norm(self.blocks(x.flatten(2).transpose(1, 2)))


class Classifier(nn.Module):
  """The encoder wrapped, and the AudioSet head beside it."""

  def __init__(self, classes=7, width=48):
    super().__init__()
    self.encoder = Encoder(front_end=False)
    self.outputlayer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

  def forward(self, x):
    return self.outputlayer(self.encoder(x).mean(1)).sigmoid()


def conv_norm(inputs, outputs, activation, kernel=1, stride=1, groups=1):
  conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
  kinds = {"hardswish": nn.Hardswish, "relu": nn.ReLU}
  act = [kinds[activation](inplace=True)] if activation else []
  return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), *act)


class SqueezeExcite(nn.Module):
  def __init__(self, channels, bottleneck):
    super().__init__()
    inner = nn.Module()
    inner.fc1, inner.fc2 = nn.Linear(channels, bottleneck), nn.Linear(bottleneck, channels)
    self.conc_se_layers = nn.ModuleList([inner])

  def forward(self, x):
    inner = self.conc_se_layers[0]
    gate = torch.sigmoid(inner.fc2(F.relu(inner.fc1(x.mean((2, 3))))))
    return x * gate[:, :, None, None]


class InvertedResidual(nn.Module):
  """One block, from our own description of it and the sizes in its state dict."""

  def __init__(self, shape, bottleneck):
    super().__init__()
    wide, act = shape.expanded, shape.activation
    layers = [conv_norm(shape.channels, wide, act)] if shape.expands else []
    layers.append(conv_norm(wide, wide, act, shape.kernel, shape.true_stride, wide))
    layers += [SqueezeExcite(wide, bottleneck)] if bottleneck else []
    layers.append(conv_norm(wide, shape.out, ""))
    self.block, self.residual = nn.Sequential(*layers), shape.residual

  def forward(self, x):
    return x + self.block(x) if self.residual else self.block(x)


class MN(nn.Module):
  """MN with the mlp head; log-mels (b, 1, f, t) to (logits, features), squeezed as released."""

  def __init__(self, cfg, state):
    super().__init__()
    layers = [conv_norm(1, cfg.stem, "hardswish", 3, 2)]
    for block in cfg.blocks:
      name = f"features.{block.number}.block."
      sizes = [len(x) for key, x in state.items() if key.startswith(name) and "fc1.bias" in key]
      layers.append(InvertedResidual(block, sizes[0] if sizes else 0))
    layers.append(conv_norm(cfg.blocks[-1].out, cfg.features, "hardswish"))
    self.features = nn.Sequential(*layers)
    self.classifier = nn.Sequential(
      nn.AdaptiveAvgPool2d(1),
      nn.Flatten(),
      nn.Linear(cfg.features, cfg.hidden),
      nn.Hardswish(inplace=True),
      nn.Dropout(0.2),
      nn.Linear(cfg.hidden, cfg.classes),
    )

  def forward(self, x):
    x = self.features(x)
    return self.classifier(x).squeeze(), x.mean((2, 3)).squeeze()
