"""The command line of every experiment, generated from its configuration dataclasses.

    python -m experiments.pretrain --config dasheng_base --optim.peak_lr 2e-4 --data.source a b

`--config` picks a named value; each further flag sets one field of it, by its dotted path. This is
our own small parser because none of the libraries does both of what a user meets first: tyro frames
its errors over many lines and wants the name as a sub-command, and argparse, simple-parsing and
jsonargparse print the whole usage before an error and take `--config` for a file.
"""

import difflib
import enum
import errno
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from experiments.training import config_io, fields
from experiments.training.errors import RunError, UsageError

Config = TypeVar("Config")

DEBUG_VARIABLE = "DASHENG_DEBUG"
OUR_PACKAGES = ("dasheng_jax", "mobile_jax", "pipelines", "experiments")
USER_FAULTS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
# Libraries wrap what the system said in errors of their own, so the text is what is left of it.
KNOWN_TROUBLE = (
  (r"No space left on device", "the disk is full; free some space and start again: {}"),
  (r"Disk quota exceeded", "the disk quota is used up; free some space and start again: {}"),
  (
    r"RESOURCE_EXHAUSTED.*[Oo]ut of memory",
    "the device is out of memory; use a smaller batch or more accumulation steps: {}",
  ),
)


def parse(
  argv: Sequence[str],
  registry: Mapping[str, Config],
  *,
  prog: str,
  default: str | None = None,
  description: str = "",
) -> Config:
  """The configuration that `argv` (without the program's name) asks for.

  `registry` holds the named configurations, `default` the name taken without `--config`. A text
  field called `about` in a configuration is its line in the list of configurations.

  Flags: `--a.b VALUE`, `--a.b=VALUE`, with `-` as good as `_`; a field of several values takes all
  that follow (`--data.source a b`); a switch is `--x`, `--no-x`, `--a.no-x` or `--x false`; `none`
  empties an optional field. What follows no flag goes to the field marked positional, if any, and
  so does all that stands behind `--`.

  Raises UsageError, in one line, for whatever does not fit; exits 0 after printing `--help`.
  """
  tokens, behind = _split(argv)
  wants_help = "--help" in tokens or "-h" in tokens
  name = _take_config(tokens, registry, default, wants_help)
  config = registry[name] if name else next(iter(registry.values()))
  if wants_help:
    print(help_text(config, registry, prog=prog, name=name, description=description))
    raise SystemExit(0)
  return config_io.with_values(config, _read_flags(tokens, behind, config))


def swallowed(config: Any) -> str:
  """What to say where the positional values are missing: which flags may have taken them.

  Text that ends a sentence; "" where every other field of several values is empty.
  """
  leaves = list(fields.leaves(config))
  took = [f"--{leaf.path}" for leaf in leaves if leaf.many and leaf.value and not leaf.positional]
  return _goes_before(" and ".join(took), leaves) if took else ""


def _goes_before(flags: str, leaves: Iterable[fields.Leaf]) -> str:
  place = next((leaf.path.upper() for leaf in leaves if leaf.positional), "")
  return (
    f"; all that follows {flags} belongs to it: {place} go before, or behind --" if place else ""
  )


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """(tokens up to `--`, values behind it)."""
  tokens = list(argv)
  at = tokens.index("--") if "--" in tokens else len(tokens)
  return tokens[:at], tokens[at + 1 :]


def _take_config(
  tokens: list[str], registry: Mapping[str, Any], default: str | None, wants_help: bool
) -> str | None:
  """Removes `--config NAME` from the tokens and returns the name."""
  name = default
  for i, token in reversed(list(enumerate(tokens))):
    flag, equals, value = token.partition("=")
    if flag != "--config":
      continue
    if not equals and (i + 1 == len(tokens) or tokens[i + 1].startswith("--")):
      raise UsageError(f"--config needs a name: one of {', '.join(registry)}")
    name = value if equals else tokens[i + 1]
    del tokens[i : i + (1 if equals else 2)]
    break
  if name is None and not wants_help:
    raise UsageError(f"name a configuration: --config with one of {', '.join(registry)}")
  if name is not None and name not in registry:
    raise UsageError(f"--config {name}: unknown{_suggest(name, registry)}")
  return name


def _suggest(wrong: str, right: Sequence[str] | Mapping[str, Any], dashes: str = "") -> str:
  """`; did you mean ...?`, or the list itself where it is short and nothing comes near."""
  near = difflib.get_close_matches(wrong, list(right), 3, 0.6)
  if near:
    return f"; did you mean {' or '.join(dashes + n for n in near)}?"
  return f"; choose from {', '.join(dashes + r for r in right)}" if len(right) <= 12 else ""


def _read_flags(tokens: list[str], behind: list[str], config: Any) -> dict[str, Any]:
  leaves = {leaf.path: leaf for leaf in fields.leaves(config)}
  values: dict[str, Any] = {}
  loose: list[str] = []
  i = 0
  while i < len(tokens):
    token = tokens[i]
    i += 1
    if not re.match(r"--?[A-Za-z]", token):
      loose.append(token)
      continue
    flag, equals, text = token.partition("=")
    path, negated = _find(flag, leaves, config)
    leaf = leaves[path]
    taken = [text] if equals else _following(tokens[i:], leaf)
    i += 0 if equals else len(taken)
    if leaf.is_bool and not taken:
      values[path] = not negated
      continue
    if negated:
      raise UsageError(f"{flag}: takes no value")
    if not taken and not leaf.many:
      raise UsageError(f"{flag}: needs a value, {fields.type_name(leaf.type)}")
    hint = _goes_before(flag, leaves.values()) if leaf.many and len(taken) > 1 else ""
    values[path] = _read(flag, leaf, taken, hint)
  return values | _positional(loose + behind, leaves)


def _following(rest: list[str], leaf: fields.Leaf) -> list[str]:
  """The values right behind a flag: all of them, one, or for a switch one that reads as such."""
  values = []
  for token in rest:
    if re.match(r"--?[A-Za-z]", token):
      break
    values.append(token)
  if leaf.is_bool:
    return [v for v in values[:1] if v.lower() in fields.TRUE | fields.FALSE]
  return values if leaf.many else values[:1]


def _find(flag: str, leaves: Mapping[str, fields.Leaf], config: Any) -> tuple[str, bool]:
  """(path, whether negated) of the leaf that a flag names."""
  path = flag.lstrip("-").replace("-", "_")
  if flag.startswith("--") and path in leaves:
    return path, False
  for bare in (re.sub(r"^no_", "", path), re.sub(r"\.no_([^.]+)$", r".\1", path)):
    if flag.startswith("--") and bare in leaves and leaves[bare].is_bool:
      return bare, True
  if inside := [p for p in leaves if p.startswith(path + ".")]:
    shown = ", ".join("--" + p for p in inside[:4]) + (", ..." if len(inside) > 4 else "")
    raise UsageError(f"{flag}: is a group of fields; set one of them: {shown}")
  hint = _nearest(path, list(leaves))
  raise UsageError(f"{flag}: unknown; {hint or 'see --help'}")


def _nearest(path: str, paths: list[str]) -> str:
  """The same name elsewhere, or a like name in the same section, or a like one anywhere."""
  section, _, last = path.rpartition(".")
  tails = {p: p.rpartition(".")[2] for p in paths}
  near = [p for p in paths if tails[p] == last]
  for among in ([p for p in paths if p.rpartition(".")[0] == section], paths):
    close = difflib.get_close_matches(last, [tails[p] for p in among], 2, 0.6)
    near = near or [p for p in among if tails[p] in close]
  return f"did you mean {' or '.join('--' + p for p in near[:3])}?" if near else ""


def _read(flag: str, leaf: fields.Leaf, texts: list[str], hint: str = "") -> Any:
  if not fields.settable(leaf.type):
    raise UsageError(f"{flag}: cannot be written on a command line; make a named configuration")
  shown = " ".join(texts)
  try:
    return fields.parse_value(leaf.type, texts)
  except ValueError:
    if len(texts) == 1 and (names := fields.choices(leaf.type)):
      raise UsageError(f"{flag} {shown}: unknown{_suggest(shown, names)}") from None
    raise UsageError(f"{flag} {shown}: expected {fields.type_name(leaf.type)}{hint}") from None


def _positional(loose: list[str], leaves: Mapping[str, fields.Leaf]) -> dict[str, Any]:
  if not loose:
    return {}
  target = next((leaf for leaf in leaves.values() if leaf.positional), None)
  if target is None:
    raise UsageError(f"unexpected value {loose[0]!r}; every value follows a flag, see --help")
  return {target.path: _read(target.path.upper(), target, loose)}


def help_text(
  config: Any,
  registry: Mapping[str, Any],
  *,
  prog: str,
  name: str | None,
  description: str = "",
) -> str:
  """Usage, the named configurations, and every field with type, comment and value, by section."""
  width = min(100, max(60, shutil.get_terminal_size((100, 24)).columns))
  leaves = [leaf for leaf in fields.leaves(config) if leaf.path != "about"]
  places = "".join(f" {leaf.path.upper()}..." for leaf in leaves if leaf.positional)
  lines = [f"usage: python -m experiments.{prog}{places} --config NAME [--FIELD VALUE ...]", ""]
  lines += [*textwrap.wrap(description, width), ""] if description else []
  lines.append("configurations:")
  for key, value in registry.items():
    lines += _entry(f"{key}{' (shown)' if key == name else ''}", getattr(value, "about", ""), width)
  lines += ["", f"fields, with their values in {name or next(iter(registry))}:"]
  section = ""
  for leaf in leaves:
    if leaf.positional:
      continue
    head = leaf.path.rpartition(".")[0]
    if head != section:
      lines += ["", f"{head}:"]
      section = head
    note = f"{leaf.help} " if leaf.help else ""
    kind = fields.type_name(leaf.type) if fields.settable(leaf.type) else "(in configurations only)"
    left = f"--{leaf.path} {kind}"
    lines += _entry(left, f"{note}[{_show(leaf.value)}]", width)
  lines += ["", f"--debug or {DEBUG_VARIABLE}=1 shows the whole trace of an error."]
  return "\n".join(lines)


def _entry(left: str, right: str, width: int, column: int = 36) -> list[str]:
  wrapped = textwrap.wrap(right, width - column) or [""]
  first = f"  {left}".ljust(column)
  fits = len(left) + 3 <= column
  head = [first + wrapped[0]] if fits else [f"  {left}", " " * column + wrapped[0]]
  return [line.rstrip() for line in head + [" " * column + w for w in wrapped[1:]]]


def _show(value: Any) -> str:
  if isinstance(value, list | tuple):
    return " ".join(_show(v) for v in value) or "empty"
  if isinstance(value, bool) or value is None:
    return str(value).lower()
  return value.name if isinstance(value, enum.Enum) else str(value) or "empty"


def run_main(
  main: Callable[[Config], Any],
  registry: Mapping[str, Config],
  *,
  prog: str,
  default: str | None = None,
  argv: Sequence[str] | None = None,
  description: str = "",
) -> NoReturn:
  """Parses the command line, runs `main(config)` and exits; a known trouble becomes one line.

  Exit code: what `main` returns (None is 0); 2 for a user's mistake; 1 for trouble during the run;
  130 after an interrupt. An error that nobody foresaw keeps its trace.
  """
  tokens = list(sys.argv[1:] if argv is None else argv)
  ahead, behind = _split(tokens)
  debug = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0") or "--debug" in ahead
  tokens = [t for t in ahead if t != "--debug"] + (["--", *behind] if behind else [])

  def command() -> int:
    config = parse(tokens, registry, prog=prog, default=default, description=description)
    return int(main(config) or 0)

  code = 1
  try:
    code = guard(command, prog=prog, debug=debug)
  except BaseException:
    if not _one_of_several():
      raise
    traceback.print_exc()
  if code in (1, 2) and _one_of_several():
    # Leaving in order would wait for the others, who wait for this one in a collective.
    from experiments.training.cluster import leave

    leave(f"{prog}: this process of the run ends", code)
  sys.exit(code)


def _one_of_several() -> bool:
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def guard(command: Callable[[], int], *, prog: str, debug: bool = False) -> int:
  """The exit code of `command()`, with foreseen errors printed as one line on standard error."""
  try:
    return command()
  except KeyboardInterrupt:
    print(f"\n{prog}: interrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:  # the reader of our output, say `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except Exception as error:
    explained = explain(error)
    if explained is None or debug:
      raise
    code, message = explained
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[int, str] | None:
  """(exit code, message) of an error that a user can act on; None for one that is a bug of ours.

  An error class defined in one of our packages is written for the user. Of the system's errors, a
  path that is wrong is the user's mistake, and a disk that fails is trouble during the run.
  """
  link: BaseException | None = error
  while link is not None:
    if type(link).__module__.partition(".")[0] in OUR_PACKAGES:
      return (1 if isinstance(link, RunError) else 2), str(link)
    for pattern, message in KNOWN_TROUBLE:
      if re.search(pattern, str(link)):
        return 1, message.format(_where(link))
    link = link.__cause__  # not its context: a bug met while handling our error is still a bug
  if isinstance(error, OSError) and error.errno is not None:
    code = 2 if isinstance(error, USER_FAULTS) or error.errno == errno.EACCES else 1
    return code, f"{error.strerror or type(error).__name__}: {_where(error)}"
  return None


def _where(error: BaseException) -> str:
  name = getattr(error, "filename", None)
  return str(name) if name else (str(error) or type(error).__name__).strip().splitlines()[0][:200]
