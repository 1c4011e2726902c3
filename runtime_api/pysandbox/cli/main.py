"""Entry of `pysandbox`: global flags, the command's module, and errors turned into one line and an exit code."""

from __future__ import annotations

import _signal
import contextlib
import os
import sys

from pysandbox.cli.flags import Flag, Parsed, UsageError, check_arguments, flag_lines, parse, usage
from pysandbox.cli.log import Log
from pysandbox.errors import EXIT_CODE, InvalidArgument, SandboxError
from pysandbox.linux import close_inherited_on_exec, open_standard_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.cli.flags import Command
    from pysandbox.cli.invocation import Invocation

DEFAULT_ROOT = "/run/pysandbox"
#: Each is a module of this package, with a COMMAND and a run().
COMMANDS = (
    "audit", "backends", "bench", "bundle", "check", "checkpoint", "compare", "console", "create", "delete",
    "env", "events", "exec", "explain", "features", "image", "kill", "list", "pause", "ps", "restore", "resume",
    "run", "server", "shimctl", "spec", "start", "state", "template", "update", "verify",
)  # fmt: skip
#: Commands whose failure has another exit code than 1, as under runc.
FAILURE_CODES = {"exec": 255}
#: Commands whose errors begin with their name, as under runc.
PREFIXES = {"create": "pysandbox create failed: ", "run": "pysandbox run failed: ", "exec": "exec failed: "}

GLOBAL_FLAGS = (
    Flag("debug", "enable debug logging"),
    Flag("log", "file to append log lines to, instead of standard error", "string"),
    Flag("log-format", "form of log lines: text or json", "string", default="text"),
    Flag("root", "directory of the containers' state (should be on a tmpfs)", "string", default=DEFAULT_ROOT),
    Flag("systemd-cgroup", 'let systemd make cgroups; cgroupsPath is "slice:prefix:name" then'),
    Flag("cgroup-manager", "cgroupfs, or systemd: crun's words for --systemd-cgroup", "string"),
    Flag("rootless", "run without root: not supported (true is refused)", "string", default="auto"),
    Flag("backend", "backend for new containers", "string"),
    Flag("config", "settings file, instead of /etc/pysandbox/config.toml", "string"),
    Flag("version", "print the version", alias="v"),
    Flag("help", "show help", alias="h"),
)
_HELP = Flag("help", "show help", alias="h", hidden=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command in this process, started for it; return the exit code. `argv` is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    _forget_coerced_locale()
    # Where our caller ignores it, children would be reaped unseen.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    open_standard_descriptors()
    if sys.stdout is None:  # so it is where the caller had closed it
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (open to our end)
    return command(words, close_inherited_on_exec(3))


def _forget_coerced_locale() -> None:
    """Take back the LC_CTYPE that the interpreter sets in a C locale (PEP 538): hooks get the caller's environment."""
    if "LC_CTYPE" in os.environ:
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
            if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
                del os.environ["LC_CTYPE"]


def command(words: list[str], inherited: frozenset[int]) -> int:
    """Run one command; return the exit code. `inherited` are the descriptors from 3 on that the caller left open."""
    journal = Log()
    try:
        globals_ = parse(GLOBAL_FLAGS, words, ordered=True)
        journal = Log(globals_["log"], globals_["log-format"], debug=globals_["debug"])
        code = _dispatch(globals_, journal, inherited)
    except UsageError as error:
        sys.stdout.write(f"Incorrect Usage. {error}\n\n{_help()}")
        code = _fail(journal, error, "")
    except SandboxError as error:
        code = _fail(journal, error, "")
    except KeyboardInterrupt:
        code = 130  # 128 and SIGINT; whatever was half made has been undone on the way here
    return _flush(code, journal)


def _dispatch(globals_: Parsed, journal: Log, inherited: frozenset[int]) -> int:
    if globals_["version"]:
        sys.stdout.write(_version())
        return 0
    if globals_["rootless"] not in ("auto", "false"):
        raise InvalidArgument(f"--rootless {globals_['rootless']}: rootless containers are not supported")
    _choose_cgroup_manager(globals_)
    arguments = globals_.arguments
    if globals_["help"] or not arguments or arguments[0] in ("help", "h"):
        sys.stdout.write(_help(arguments[1:]))
        return 0
    if arguments[0] not in COMMANDS:
        journal.error(f"No help topic for '{arguments[0]}'")
        return 3
    return _run_command(arguments[0], arguments[1:], globals_, journal, inherited)


def _choose_cgroup_manager(globals_: Parsed) -> None:
    manager = globals_["cgroup-manager"]
    if manager not in ("", "cgroupfs", "systemd"):
        raise InvalidArgument(f"--cgroup-manager {manager}: must be cgroupfs or systemd")
    globals_.values["systemd-cgroup"] |= manager == "systemd"


def _run_command(name: str, words: list[str], globals_: Parsed, journal: Log, inherited: frozenset[int]) -> int:
    command, run = _load(name)
    try:
        raw = command.raw and (not words or words[0] not in ("-h", "--help"))
        parsed = parse((*command.flags, _HELP), ["--", *words] if raw else words, ordered=command.ordered)
        if parsed["help"]:
            sys.stdout.write(usage(command))
            return 0
        check_arguments(command, len(parsed.arguments))
    except UsageError as error:
        sys.stdout.write(f"Incorrect Usage: {error}\n\n{usage(command)}")
        return _fail(journal, error, "")
    from pysandbox.cli.invocation import Invocation

    try:
        return run(Invocation(globals_=globals_, parsed=parsed, journal=journal, inherited=inherited))
    except UsageError as error:
        return _fail(journal, error, "")
    except BrokenPipeError:
        return _drop_output()
    except (SandboxError, OSError) as error:
        return _fail(journal, error, name)
    except Exception as error:  # noqa: BLE001 (never a traceback)
        if globals_["debug"]:
            import traceback

            journal.debug(traceback.format_exc())
        return _fail(journal, error, name, f"{type(error).__name__} (a bug: --debug shows where): ")


def _load(name: str) -> tuple[Command, Callable[[Invocation], int]]:
    from importlib import import_module

    module = import_module(f"pysandbox.cli.{name}")
    return module.COMMAND, module.run


def _fail(journal: Log, error: BaseException, name: str, kind: str = "") -> int:
    """Write one line that says what went wrong."""
    text = _system_error(error) if isinstance(error, OSError) else str(error)
    journal.error(" ".join(f"{PREFIXES.get(name, '')}{kind}{text}".splitlines()))
    return FAILURE_CODES.get(name, EXIT_CODE)


def _system_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


def _flush(code: int, journal: Log) -> int:
    """Write what is still buffered; return the exit code. A fork of the server does not end as interpreters do."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _drop_output()
    except OSError as error:
        _drop_output()
        # A command that has failed has told why.
        return code or _fail(journal, OSError(error.errno, error.strerror, "standard output"), "")
    return code


def _drop_output() -> int:
    """End quietly when nobody reads our output any more; keep the interpreter from complaining about it on its way."""
    os.dup2(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC), 1)
    return 1


def _help(words: Sequence[str] = ()) -> str:
    if words and words[0] in COMMANDS:
        return usage(_load(words[0])[0])
    lines = ["NAME:", "   pysandbox - run containers in a sandbox of your choice (an OCI runtime)", "", "USAGE:"]
    lines += ["   pysandbox [global options] command [command options] [arguments...]", "", "COMMANDS:"]
    lines += [f"   {name:10}  {_load(name)[0].summary}" for name in COMMANDS]
    lines += ["", "GLOBAL OPTIONS:", *flag_lines(GLOBAL_FLAGS)]
    return "\n".join(lines) + "\n"


def _version() -> str:
    from pysandbox import VERSION
    from pysandbox.oci.default import OCI_VERSION

    return f"pysandbox version {VERSION}\ncommit: v{VERSION}\nspec: {OCI_VERSION}\n"


if __name__ == "__main__":
    sys.exit(main())
