"""What can go wrong, by meaning.

```
SandboxError
├── InvalidArgument       the request or the spec is wrong; the text names the JSON path
├── NotFound              no such container, process or file
├── AlreadyExists         the id is taken
├── FailedPrecondition    right request, wrong moment: "container not running"
├── PermissionDenied      refused by policy
├── Unavailable           something this needs is not there now; trying again may help
├── DeadlineExceeded      a wait reached its limit
├── Unimplemented         this backend or this version cannot do it
└── Unknown               a bug, or something nobody foresaw
```

The leaves carry containerd's code names. Trouble with the kernel stays an `OSError`. `EXIT_CODE` and `STATUS_CODES`
are the one place where errors become numbers. Text is lower case, has no full stop and names the id, path or JSON path.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of everything pysandbox raises on purpose."""


class InvalidArgument(SandboxError):
    """The request or the spec is wrong."""


class NotFound(SandboxError):
    """There is no such container, process or file."""


class AlreadyExists(SandboxError):
    """The id is taken."""


class FailedPrecondition(SandboxError):
    """The container is not in a state that allows this."""


class PermissionDenied(SandboxError):
    """Policy refuses it."""


class Unavailable(SandboxError):
    """Something this needs is not there now."""


class DeadlineExceeded(SandboxError):
    """A wait reached its limit."""


class Unimplemented(SandboxError):
    """This backend, or this version, cannot do it."""


class Unknown(SandboxError):
    """A bug, or something nobody foresaw."""


#: gRPC status codes, as ttrpc carries them.
STATUS_CODES: dict[type[BaseException], int] = {
    InvalidArgument: 3,
    DeadlineExceeded: 4,
    NotFound: 5,
    AlreadyExists: 6,
    PermissionDenied: 7,
    FailedPrecondition: 9,
    Unimplemented: 12,
    Unavailable: 14,
    Unknown: 2,
}


#: What a command exits with after any of them, as under runc. The exit code of `run` and `exec` is the process's own.
EXIT_CODE = 1
