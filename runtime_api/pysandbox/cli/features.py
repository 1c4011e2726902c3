"""`pysandbox features`: print the OCI features document of a backend."""

from __future__ import annotations

import json
import sys

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "features", "show what a backend implements, as JSON (runtime-spec, features.md)", "", at_least=0, at_most=0
)


def run(invocation: Invocation) -> int:
    """Print the document."""
    from pysandbox.oci.features import features_document
    from pysandbox.plugins import choose, load_backend

    config = invocation.config()
    backend = load_backend(choose(config, invocation.globals_["backend"] or None, {}), config)
    sys.stdout.write(json.dumps(features_document(backend.features()), indent=2, ensure_ascii=False) + "\n")
    return 0
