"""`require` of the settings file: no container is made whose sandbox was not observed to be as demanded.

What is demanded is looked up in the evidence of an earlier observation of the same sandbox, else observed now, in a
container of its own, before the user's is made. The same sandbox: the same root file system and spec but for what only
the program sees, the same backend with the same settings, the same programs of ours, the same boot of the host; for an
hour at most. Only for built-in backends, as nobody tells when another one changes, and for a spec that joins no
namespace of others. Evidence that cannot be read is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

from pysandbox.audit import evidence
from pysandbox.audit.audit import audit
from pysandbox.audit.catalogue import PROBES
from pysandbox.audit.finding import VERDICTS, Finding
from pysandbox.audit.policy import Policy, failures, load_policy, named
from pysandbox.audit.session import PROGRAM
from pysandbox.errors import PermissionDenied, SandboxError
from pysandbox.executor import PROGRAM as EXECUTOR
from pysandbox.executor import open_program
from pysandbox.oci.document import open_document, read_object
from pysandbox.plugins import BUILT_IN
from pysandbox.record import replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.audit.audit import Report
    from pysandbox.backend import Options
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.bundle import Bundle

#: In the root directory; no container's id holds a colon.
DIRECTORY = ".evidence:"
#: Seconds that evidence counts.
LIFETIME = 3600.0
#: Files of evidence that are kept, 60 KB each.
MOST = 200
_POLICY = "policy:"
#: Members of the spec that no probe of a sandbox depends on.
_OF_PROCESS = frozenset({"args", "env", "cwd", "terminal", "consoleSize", "commandLine"})
_SHOWN = 3


def check(runtime: Runtime, bundle: Bundle, backend: str, options: Options) -> None:
    """Raise PermissionDenied unless all that the settings require was observed to be as expected.

    InvalidArgument for what the settings name and nobody knows; whatever making a container raises, if it is observed
    now and cannot be.
    """
    policy = demanded(runtime.config.require, runtime.config.path)
    findings = _recall(runtime, bundle, backend)
    if findings is None:
        # The observed container is itself not held to anything.
        unbound = replace(runtime, config=replace(runtime.config, require=()), backend=backend)
        report = audit(unbound, bundle, backend, options)
        remember(runtime, bundle, report)
        findings = report.findings
    if missed := failures(policy, findings):
        shown = "; ".join(f"{one.probe} is {one.verdict}: {one.observed}" for one in missed[:_SHOWN])
        more = f"; and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
        raise PermissionDenied(
            f"{runtime.config.path}: require: {shown}{more}; remedy: pysandbox audit {bundle.path} shows all"
        )


def demanded(words: Sequence[str], where: str) -> Policy:
    """Return what `require` demands: probes, `group:NAME`, and `policy:NAME` for one that is ready or in a file."""
    where = f"{where}: require"
    policies = [load_policy(word.removeprefix(_POLICY)) for word in words if word.startswith(_POLICY)]
    plain = named([word for word in words if not word.startswith(_POLICY)], where)
    wanted = {*plain, *(name for policy in policies for name in policy.required if name not in policy.accepted)}
    return Policy(name=where, required=tuple(name for name in PROBES if name in wanted), accepted={})


# -- evidence of the same sandbox --------------------------------------------------------------------------------------


def remember(runtime: Runtime, bundle: Bundle, report: Report) -> None:
    """Keep what was observed for later containers of the same sandbox. Where it cannot be kept it is observed anew."""
    if not _lasts(bundle, report.backend):
        return
    key = sandbox(runtime, bundle, report.backend)
    document = {
        "at": time.time(),
        "sandbox": key,
        "findings": [finding.document() for finding in report.findings],
    }
    with contextlib.suppress(OSError):
        directory = os.path.join(runtime.store.path, DIRECTORY)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        evidence.write(os.path.join(directory, key), document)
        _prune(directory)


def _prune(directory: str) -> None:
    """Remove what counts no longer, and the oldest of what is too much: each container of an engine's may leave one."""
    with os.scandir(directory) as entries:
        ages = sorted((time.time() - entry.stat(follow_symlinks=False).st_mtime, entry.path) for entry in entries)
    for index, (age, path) in enumerate(ages):
        if age > LIFETIME or index >= MOST:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _recall(runtime: Runtime, bundle: Bundle, backend: str) -> Sequence[Finding] | None:
    """Return what was observed of the same sandbox, None if nothing was that still counts."""
    if not _lasts(bundle, backend):
        return None
    key = sandbox(runtime, bundle, backend)
    try:
        descriptor = open_document(os.path.join(runtime.store.path, DIRECTORY, key), key)
        with open(descriptor, "rb") as file:
            document = read_object(file.fileno(), key)
    except (OSError, SandboxError):
        return None
    at = document.get("at")
    fresh = isinstance(at, float) and 0 <= time.time() - at < LIFETIME
    return _findings(document.get("findings")) if fresh and document.get("sandbox") == key else None


def _lasts(bundle: Bundle, backend: str) -> bool:
    """Say whether an observation tells of the next container, too: not where it joins what others have made."""
    namespaces = (bundle.spec.get("linux") or {}).get("namespaces") or ()
    return backend in BUILT_IN and not any(namespace.get("path") for namespace in namespaces)


def _findings(rows: Any) -> list[Finding] | None:
    try:
        found = [Finding(**row) for row in rows]
    except TypeError:
        return None
    return found if all(finding.verdict in VERDICTS for finding in found) else None


def sandbox(runtime: Runtime, bundle: Bundle, backend: str) -> str:
    """Return a digest of all that makes the sandbox of a bundle on a backend what it is."""
    parts = {
        "spec": _of_sandbox(bundle.spec),
        "rootfs": bundle.rootfs,
        "backend": backend,
        "settings": runtime.config.backends.get(backend, {}),
        "programs": [_digest(PROGRAM), _digest(EXECUTOR)],
        "boot": _boot(),
    }
    return evidence.spec_digest(parts)


def _of_sandbox(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec without what only its program sees, and without the names of what is made for it alone."""
    process = {name: value for name, value in spec["process"].items() if name not in _OF_PROCESS}
    linux = {name: value for name, value in (spec.get("linux") or {}).items() if name != "cgroupsPath"}
    return {**{name: value for name, value in spec.items() if name != "hostname"}, "process": process, "linux": linux}


def _digest(program: str) -> str:
    with open(open_program(program), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read(64).strip()
