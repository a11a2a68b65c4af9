"""Errors of the audio pipeline: one line that names the file, field or flag, and the way out."""


class DataError(ValueError):
  """The user's data or data settings are unusable; the message says what to change."""


class BadAudio(DataError):
  """A recording cannot be used (damaged, empty, absent, not finite); training takes another."""
