"""What a user gets when a configuration or a weight file is wrong: one line, with the way out."""


class ConfigError(ValueError):
  """A model configuration, or an input that it cannot process."""


class WeightsError(ValueError):
  """A weight file that is damaged, foreign, or does not fit the model."""
