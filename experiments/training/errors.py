"""Errors that end a command with one line for the person at the shell.

`cli.run_main` prints them as `PROGRAM: error: MESSAGE`, so a message names the flag, field or file
and the way out, and carries no line break.
"""


class UsageError(ValueError):
  """The command line or a saved configuration is wrong: exit code 2."""


class RunError(RuntimeError):
  """The run was asked for correctly and yet cannot go on, as when it diverges: exit code 1."""
