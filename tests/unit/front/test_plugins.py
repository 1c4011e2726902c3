"""Backends by name: which one is chosen, what a plugin must be, and that built-ins are nothing special."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysandbox import plugins
from pysandbox.backend import API_VERSION, LifecycleEvent
from pysandbox.config import Config
from pysandbox.errors import InvalidArgument, NotFound, PermissionDenied
from pysandbox.plugins import choose, entries, entry, load_backend, notify, settings_of

Plugin = Callable[..., Path]

GOOD = """
from pysandbox.hookspecs import hookimpl
from pysandbox.testing.fake import entry

@hookimpl
def pysandbox_register_backend():
    return entry()
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test put on sys.path and imported from there."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.endswith("_plugin"):
            del sys.modules[name]


# -- choice ------------------------------------------------------------------------------------------------------------

ASKS = {"io.pysandbox.backend": "other"}


@pytest.mark.parametrize(
    ("config", "explicit", "annotations", "chosen"),
    [
        (Config(), None, {}, "namespaces"),
        (Config(backend="set"), None, {}, "set"),
        (Config(backend="set"), "said", {}, "said"),
        (Config(), None, ASKS, "namespaces"),  # an annotation counts only where the operator says so
        (Config(), "said", ASKS, "said"),
        (Config(annotation_backends=("other",)), None, ASKS, "other"),
        (Config(backend="set", annotation_backends=("other",)), None, ASKS, "other"),
        (Config(annotation_backends=("another",)), None, ASKS, "namespaces"),
        (Config(annotation_backends=("other",)), "other", ASKS, "other"),
    ],
)
def test_the_order_of_choice(config: Config, explicit: str | None, annotations: dict[str, str], chosen: str) -> None:
    assert choose(config, explicit, annotations) == chosen


def test_an_annotation_never_overrides_an_explicit_choice() -> None:
    with pytest.raises(PermissionDenied, match="asks for backend 'other', but 'said' was chosen explicitly"):
        choose(Config(annotation_backends=("other",)), "said", ASKS)


# -- entry points --------------------------------------------------------------------------------------------------------


def test_a_backend_is_found_by_its_entry_points_name(plugin: Plugin) -> None:
    sys.path.append(str(plugin("fake", GOOD)))

    assert load_backend("fake", Config()).name == "fake"


def test_only_the_plugin_asked_for_is_imported(plugin: Plugin) -> None:
    sys.path.append(str(plugin("fake", GOOD)))
    sys.path.append(str(plugin("trap", "raise SystemExit('imported')", distribution="trap")))

    assert load_backend("fake", Config()).name == "fake"
    assert "trap_plugin" not in sys.modules


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(NotFound, match="no backend 'nothing'"):
        load_backend("nothing", Config())


def test_a_name_offered_twice_is_refused_naming_both(plugin: Plugin) -> None:
    sys.path.append(str(plugin("fake", GOOD, distribution="one")))
    sys.path.append(str(plugin("fake", GOOD, distribution="two")))

    with pytest.raises(InvalidArgument, match=r"offered more than once, by: one 1\.0, two 1\.0"):
        entry("fake")


def test_another_api_version_is_refused_naming_both(plugin: Plugin) -> None:
    source = GOOD.replace(
        "return entry()",
        f"from pysandbox.record import replace; return replace(entry(), api_version={API_VERSION + 1})",
    )
    sys.path.append(str(plugin("fake", source)))

    with pytest.raises(
        InvalidArgument, match=rf"of example 1\.0 is for API version {API_VERSION + 1}, this is version {API_VERSION}"
    ):
        entry("fake")


def test_a_misspelt_hook_is_refused(plugin: Plugin) -> None:
    sys.path.append(str(plugin("fake", GOOD + "\n@hookimpl\ndef pysandbox_registre_backend():\n    pass\n")))

    with pytest.raises(InvalidArgument, match="pysandbox_registre_backend"):
        entry("fake")


def test_a_plugin_that_offers_another_name_is_refused(plugin: Plugin) -> None:
    sys.path.append(str(plugin("other", GOOD)))

    with pytest.raises(InvalidArgument, match=r"backend 'other': its plugin example 1\.0 offers 'fake'"):
        entry("other")


def test_a_plugin_that_the_configuration_does_not_list_is_not_imported(plugin: Plugin) -> None:
    sys.path.append(str(plugin("trap", "raise SystemExit('imported')", distribution="trap")))

    with pytest.raises(PermissionDenied, match="not among the plugins"):
        load_backend("trap", Config(plugins=("fake",)))


def test_every_plugin_is_listed_the_broken_ones_with_their_error(plugin: Plugin) -> None:
    sys.path.append(str(plugin("fake", GOOD)))
    sys.path.append(str(plugin("broken", "raise ValueError('why')", distribution="broken")))

    found = {name: (what, offered) for name, what, offered in entries()}

    assert found["fake"][0] == "example 1.0"
    assert str(found["broken"][1]) == "why"


def test_a_built_in_is_the_same_without_its_short_cut(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(plugin("namespaces", "from pysandbox_namespaces.plugin import *", distribution="itself")))
    by_table = type(load_backend("namespaces", Config()))
    monkeypatch.delitem(plugins.BUILT_IN, "namespaces")
    from importlib.metadata import entry_points

    if len(entry_points(group="pysandbox.backends", name="namespaces")) > 1:  # pysandbox is installed here itself
        sys.path.pop(0)

    assert type(load_backend("namespaces", Config())) is by_table


def test_a_variant_is_made_by_its_family(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(plugin("oci", "from pysandbox_oci.plugin import *", distribution="itself")))
    by_table = load_backend("oci:runc", Config(plugins=()))
    monkeypatch.delitem(plugins.FAMILIES, "oci")
    from importlib.metadata import entry_points

    if len(entry_points(group="pysandbox.backends", name="oci")) > 1:  # pysandbox is installed here itself
        sys.path.pop(0)

    assert type(load_backend("oci:runc", Config())) is type(by_table)
    assert by_table.name == "oci"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("namespaces:x", "backend 'namespaces' has no variants: namespaces:x"),
        ("namespaces:", "backend 'namespaces' has no variants"),
        ("oci", "which runtime"),
        ("oci:", "which runtime"),
        ("oci:../runc", "a name or an absolute path"),
    ],
)
def test_a_variant_that_there_is_not_is_refused(name: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load_backend(name, Config())


def test_a_variant_of_a_plugin_that_is_not_allowed_is_not_imported(plugin: Plugin) -> None:
    sys.path.append(str(plugin("trap", "raise SystemExit('imported')", distribution="trap")))

    with pytest.raises(PermissionDenied, match="not among the plugins"):
        load_backend("trap:variant", Config(plugins=("fake",)))


def test_all_variants_share_their_familys_settings() -> None:
    config = Config(backends={"oci": {"timeout": 7}})

    assert settings_of(config, "oci:runc") == settings_of(config, "oci:/a/path:with:colons") == {"timeout": 7}
    assert settings_of(config, "ocix:runc") == {}


def test_an_annotation_counts_for_the_very_variant_that_the_operator_lists() -> None:
    config = Config(annotation_backends=("oci:runc",))

    assert choose(config, None, {"io.pysandbox.backend": "oci:runc"}) == "oci:runc"
    assert choose(config, None, {"io.pysandbox.backend": "oci:/tmp/evil"}) == "namespaces"


def test_a_built_in_needs_no_pluggy() -> None:
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pysandbox import plugins\nfrom pysandbox.config import Config\n"
        "plugins.BUILT_IN['fake'] = ('pysandbox.testing.fake', 'FakeBackend')\n"
        "plugins.load_backend('fake', Config())\n"
        "print(sorted({'pluggy', 'importlib.metadata'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n"


# -- observers -----------------------------------------------------------------------------------------------------------

OBSERVER = """
from pysandbox.hookspecs import hookimpl

@hookimpl
def pysandbox_lifecycle_event(event):
    if event.kind == "killed":
        raise ValueError("the observer's own trouble")
    open({path!r}, "a").write(event.kind + " " + event.container_id + "\\n")
"""


def test_an_observer_is_told_and_its_errors_are_its_own(plugin: Plugin, tmp_path: Path) -> None:
    sys.path.append(str(plugin("watch", OBSERVER.format(path=str(tmp_path / "told")))))
    config, warnings = Config(observers=("watch",)), list[str]()

    for kind in ("created", "killed", "deleted"):
        notify(config, LifecycleEvent(kind=kind, container_id="c", backend="fake"), warnings.append)

    assert (tmp_path / "told").read_text() == "created c\ndeleted c\n"
    assert warnings == ["observer 'watch' failed on killed: the observer's own trouble"]
