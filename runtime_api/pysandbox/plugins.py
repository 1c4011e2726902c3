"""Find a backend by its name, and tell observers what happened. Which backend is to be used is `choose`'s to say.

Built-in backends stand in a table and are imported without pluggy and without reading an entry point; any other name
loads the one entry point that bears it. Plugins run as root: nothing is loaded that was not asked for by name.
"""

from __future__ import annotations

from pysandbox.backend import API_VERSION
from pysandbox.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType
    from typing import Any

    import pluggy

    from pysandbox.backend import Backend, BackendEntry, LifecycleEvent
    from pysandbox.config import Config

DEFAULT_BACKEND = "namespaces"
BACKEND_ANNOTATION = "io.pysandbox.backend"
#: name → module and class. A short cut, and no more: each is an entry point as well.
BUILT_IN: dict[str, tuple[str, str]] = {
    "namespaces": ("pysandbox_namespaces.backend", "NamespacesBackend"),
    "microvm": ("pysandbox_microvm.backend", "MicrovmBackend"),
}
#: The same for those that do nothing by themselves: `NAME:VARIANT` says what they drive.
FAMILIES: dict[str, tuple[str, str]] = {"oci": ("pysandbox_oci.backend", "OciBackend")}


def choose(config: Config, explicit: str | None, annotations: Mapping[str, str]) -> str:
    """Return the name of the backend for a new container: `--backend`, an allowed annotation, configuration, default.

    The annotation counts only where the configuration lists its value; to contradict an explicit choice is an error,
    as it would move a container out of the isolation its operator asked for.
    """
    asked = annotations.get(BACKEND_ANNOTATION)
    if asked is not None and asked in config.annotation_backends:
        if explicit is not None and explicit != asked:
            raise PermissionDenied(
                f"annotation {BACKEND_ANNOTATION}: asks for backend {asked!r}, but {explicit!r} was chosen explicitly"
            )
        return asked
    return explicit or config.backend or DEFAULT_BACKEND


def load_backend(name: str, config: Config) -> Backend:
    """Import and make a backend, of `NAME:VARIANT` that variant.

    Raises NotFound, InvalidArgument for a variant that there is not, or PermissionDenied where the configuration does
    not list it.
    """
    family, colon, variant = name.partition(":")
    kind = load_kind(family, config)
    return kind.of_variant(variant) if colon else kind()


def load_kind(name: str, config: Config) -> type[Backend]:
    """Import a backend's class: see `load_backend`."""
    from importlib import import_module

    built_in = BUILT_IN.get(name) or FAMILIES.get(name)
    if config.plugins is not None and built_in is None and name not in config.plugins:
        raise PermissionDenied(f"backend {name!r} is not among the plugins that {config.path} allows")
    if built_in is None:
        return entry(name).load()
    module, attribute = built_in
    try:
        kind: type[Backend] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise Unavailable(f"backend {name!r}: {error}") from error
    return kind


def settings_of(config: Config, name: str) -> Mapping[str, Any]:
    """Return what the settings file says for a backend: all variants of one share a table."""
    return config.backends.get(name.partition(":")[0], {})


def load_part(name: str, part: str) -> ModuleType:
    """Import one module of a built-in backend's package: what a command of that backend alone is about."""
    from importlib import import_module

    package = f"pysandbox_{name}"
    try:
        return import_module(f"{package}.{part}")
    except ModuleNotFoundError as error:
        raise Unavailable(f"backend {name!r}: {error}") from error


def entry(name: str) -> BackendEntry:
    """Load the entry point of that name, and only that, and return what it offers."""
    provider = _only_provider(name)
    plugins = _plugin_manager()
    plugins.load_setuptools_entrypoints(_group(), name=name)
    return _only_entry(plugins, name, provider)


def _only_provider(name: str) -> str:
    """Return the one distribution that announces a name. pluggy itself would take the first and drop the others."""
    from importlib.metadata import distributions

    providers = {
        distribution.name: f"{distribution.name} {distribution.version}"
        for distribution in distributions()
        if any(point.group == _group() and point.name == name for point in distribution.entry_points)
    }
    if not providers:
        raise NotFound(f"no backend {name!r}: no built-in and no entry point of {_group()!r} has that name")
    if len(providers) > 1:
        raise InvalidArgument(
            f"backend {name!r} is offered more than once, by: {', '.join(sorted(providers.values()))}"
        )
    return next(iter(providers.values()))


def entries() -> Iterator[tuple[str, str, BackendEntry | Exception]]:
    """Yield each entry point's name, distribution and what it offers, or why it cannot be used. Imports them all."""
    from importlib.metadata import distributions

    seen = set()
    for distribution in distributions():
        for point in distribution.entry_points:
            if point.group == _group() and (key := (point.name, distribution.name)) not in seen:
                seen.add(key)
                what = f"{distribution.name} {distribution.version}"
                try:
                    yield point.name, what, entry(point.name)
                except Exception as error:  # noqa: BLE001 (a broken plugin is to be listed, whatever it raises)
                    yield point.name, what, error


def _group() -> str:
    from pysandbox.hookspecs import ENTRY_POINT_GROUP

    return ENTRY_POINT_GROUP


def _plugin_manager() -> pluggy.PluginManager:
    import pluggy

    from pysandbox import hookspecs

    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    return plugins


def _only_entry(plugins: pluggy.PluginManager, name: str, provider: str) -> BackendEntry:
    """Check what the plugin offers: one backend of that name, of our version, its hooks all known."""
    _check_hooks(plugins, provider)
    offered = plugins.hook.pysandbox_register_backend()
    if len(offered) != 1 or offered[0].name != name:
        names = ", ".join(repr(one.name) for one in offered) or "nothing"
        raise InvalidArgument(f"backend {name!r}: its plugin {provider} offers {names}")
    found: BackendEntry = offered[0]
    if found.api_version != API_VERSION:
        raise InvalidArgument(
            f"backend {name!r} of {provider} is for API version {found.api_version}, this is version {API_VERSION}"
        )
    return found


def _check_hooks(plugins: pluggy.PluginManager, provider: str) -> None:
    import pluggy

    try:
        plugins.check_pending()
    except pluggy.PluginValidationError as error:
        raise InvalidArgument(f"plugin {provider}: {error}") from error


# -- observers ---------------------------------------------------------------------------------------------------------


def notify(config: Config, event: LifecycleEvent, warn: Callable[[str], None]) -> None:
    """Tell the observers that the configuration names. What one raises is logged and dropped."""
    for name in config.observers:
        try:
            plugins = _plugin_manager()
            plugins.load_setuptools_entrypoints(_group(), name=name)
            plugins.check_pending()
            plugins.hook.pysandbox_lifecycle_event(event=event)
        except Exception as error:  # noqa: BLE001 (an observer never breaks what it observes)
            warn(f"observer {name!r} failed on {event.kind}: {error}")
