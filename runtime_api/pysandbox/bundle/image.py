"""Find an image in an OCI image layout (image-spec 1.1) or a docker archive, and check it down to its layers."""

from __future__ import annotations

from pysandbox.bundle.limit import LAYERS
from pysandbox.bundle.source import Blob, check_digest
from pysandbox.errors import InvalidArgument, NotFound, Unimplemented
from pysandbox.oci.document import quote
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pysandbox.bundle.reference import Platform, Reference
    from pysandbox.bundle.source import Source

_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker.distribution."
_INDEXES = (f"{_OCI}index.v1+json", f"{_DOCKER}manifest.list.v2+json")
_MANIFESTS = (f"{_OCI}manifest.v1+json", f"{_DOCKER}manifest.v2+json")
_CONFIGS = (f"{_OCI}config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS = (f"{_OCI}layer.", "application/vnd.docker.image.rootfs.")
#: Annotations that give an image a name, in the order of what a person would type.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
#: Indexes within indexes. Two are what is made; each may hold many.
_NESTING = 4
#: Manifests in all of them, and bytes of those within others: a few that name each other a thousand times are billions.
_DESCRIPTORS = 1000
_INDEX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A checked image: its configuration, and its layers with the digest that each has unpacked (DiffID)."""

    config: dict[str, Any]
    layers: list[tuple[Blob, str]]
    name: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A manifest that could be meant: its descriptor, the names and digests on the way to it."""

    descriptor: dict[str, Any]
    names: list[str]
    digests: list[str]

    def __str__(self) -> str:
        platform = self.descriptor.get("platform") or {}
        parts = [quote(self.names[-1]) if self.names else self.digests[-1][:19]]
        if isinstance(platform, dict) and platform.get("architecture"):
            parts.append(f"({quote(str(platform.get('os')))[1:-1]}/{quote(str(platform['architecture']))[1:-1]})")
        return " ".join(parts)


# -- image layout ------------------------------------------------------------------------------------------------------


def layout_image(source: Source, reference: Reference, platform: Platform, share: Callable[[int, int], None]) -> Image:
    """Return the one image of a layout that is meant. Raises InvalidArgument, NotFound.

    `share` gets how many bytes of how many of its layers were checked.
    """
    _check_version(source)
    index = _object(source.open("index.json").document(), f"{source.what}: index.json")
    found = list(_Search(source).candidates(index, [], [], _NESTING))
    chosen = _choose(found, reference, platform, source.what)
    manifest = _manifest(source, chosen.descriptor)
    config = _read(source, _member(manifest, "config", dict, "manifest"), _CONFIGS)
    return _image(source, config, _layers(source, manifest, share), chosen, platform)


def _check_version(source: Source) -> None:
    layout = _object(source.open("oci-layout").document(), "oci-layout")
    version = layout.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise Unimplemented(f"{source.what}: oci-layout: version {quote(str(version))}; 1.x is understood")


class _Search:
    """A walk through indexes, and what it may still cost."""

    def __init__(self, source: Source) -> None:
        self._source, self._descriptors, self._bytes = source, _DESCRIPTORS, _INDEX_BYTES

    def candidates(
        self, index: dict[str, Any], names: list[str], digests: list[str], depth: int
    ) -> Iterator[_Candidate]:
        """Yield every manifest of an index and of those in it. Raises InvalidArgument."""
        if not depth:
            raise InvalidArgument(f"{self._source.what}: indexes within indexes, more than {_NESTING}")
        _only_one(index, "index", ("config", "layers"))
        for descriptor in _member(index, "manifests", list, "index"):
            digest = self._take(descriptor)
            more = [*names, *_names(descriptor)]
            if descriptor.get("mediaType") in _INDEXES:
                inner = self._inner(descriptor, digest)
                yield from self.candidates(inner, more, [*digests, digest], depth - 1)
            elif descriptor.get("mediaType") in _MANIFESTS and not _is_attestation(descriptor):
                yield _Candidate(descriptor, more, [*digests, digest])

    def _take(self, descriptor: Any) -> str:
        digest = _check_descriptor(descriptor, "manifests")
        self._descriptors -= 1
        if self._descriptors < 0:
            raise InvalidArgument(f"{self._source.what}: more than {_DESCRIPTORS} manifests")
        return digest

    def _inner(self, descriptor: dict[str, Any], digest: str) -> dict[str, Any]:
        self._bytes -= descriptor["size"]
        if self._bytes < 0:
            raise InvalidArgument(f"{self._source.what}: more than {_INDEX_BYTES} bytes of indexes within indexes")
        return _object(_read(self._source, descriptor, _INDEXES), digest)


def _names(descriptor: dict[str, Any]) -> list[str]:
    annotations = descriptor.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidArgument("index: annotations: must be an object")
    return [name for key in reversed(_NAMES) if isinstance(name := annotations.get(key), str)]


def _is_attestation(descriptor: dict[str, Any]) -> bool:
    """Tell what BuildKit puts beside an image: where it comes from, nothing to run."""
    return "vnd.docker.reference.type" in (descriptor.get("annotations") or {})


def _choose(found: list[_Candidate], reference: Reference, platform: Platform, what: str) -> _Candidate:
    """Return the one that is meant."""
    named = [candidate for candidate in found if reference.chooses(candidate.names, candidate.digests)]
    if not named:
        asked = f"no image {quote(reference.chosen)}" if reference.chosen else "no image"
        raise NotFound(f"{what}: {asked} here{_listed(found)}")
    fitting = [candidate for candidate in named if _fits(candidate.descriptor, platform)]
    # The plainest first: of amd64, amd64/v2 and amd64/v3 every machine runs the first.
    fitting.sort(key=lambda candidate: str((candidate.descriptor.get("platform") or {}).get("variant") or ""))
    if not fitting:
        raise NotFound(f"{what}: no image for {platform} here{_listed(named)} (--platform chooses another)")
    if _several(fitting):
        raise InvalidArgument(f"{what}: several images{_listed(fitting)}; choose by IMAGE:TAG or IMAGE@DIGEST")
    return fitting[0]


def _several(fitting: list[_Candidate]) -> bool:
    """Say whether these are different images that neither name nor platform tells apart."""
    names = {tuple(candidate.names) for candidate in fitting}
    platforms = {str(candidate.descriptor.get("platform")) for candidate in fitting}
    digests = {candidate.digests[-1] for candidate in fitting}
    return len(digests) > 1 and (len(names) > 1 or len(platforms) < len(digests))


def _fits(descriptor: dict[str, Any], platform: Platform) -> bool:
    described = descriptor.get("platform")
    return described is None or (isinstance(described, dict) and platform.matches(described))


def _listed(candidates: list[_Candidate]) -> str:
    shown = ", ".join(str(candidate) for candidate in candidates[:8])
    return f": {shown}{', …' if len(candidates) > 8 else ''}" if shown else ""


def _manifest(source: Source, descriptor: dict[str, Any]) -> dict[str, Any]:
    manifest = _object(_read(source, descriptor, _MANIFESTS), "manifest")
    # A document that is an index as well means one thing to this reader and another to the next (CVE-2021-41190).
    _only_one(manifest, "manifest", ("manifests",))
    said = manifest.get("mediaType", descriptor.get("mediaType"))
    if said != descriptor.get("mediaType"):
        raise InvalidArgument(f"manifest: mediaType {quote(str(said))} is not that of its descriptor")
    return manifest


def _layers(source: Source, manifest: dict[str, Any], share: Callable[[int, int], None]) -> list[Blob]:
    """Return the layers' blobs, each with the digest and size that its descriptor promises."""
    blobs = []
    promised: dict[tuple[str, int], Blob] = {}
    for descriptor in _member(manifest, "layers", list, "manifest")[: LAYERS + 1]:
        digest = _check_descriptor(descriptor, "layers")
        kind = str(descriptor.get("mediaType"))
        if not kind.startswith(_LAYERS) or "tar" not in kind or "encrypted" in kind:
            raise Unimplemented(f"{source.what}: layer of type {quote(kind)}: no file system that can be unpacked")
        blobs.append(_blob(source, digest))
        promised[digest, descriptor["size"]] = blobs[-1]  # the same layer a hundred times is read once
    done, total = 0, sum(size for _, size in promised)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        share(done, total)

    for (digest, size), blob in promised.items():
        blob.verify(digest, size, tell)
    return blobs


def _blob(source: Source, digest: str) -> Blob:
    return source.open(f"blobs/{digest.replace(':', '/')}")


def _read(source: Source, descriptor: dict[str, Any], kinds: tuple[str, ...]) -> Any:
    """Return the document that a descriptor points to, once its size and digest are seen to be right."""
    digest = _check_descriptor(descriptor, "descriptor")
    if descriptor.get("mediaType") not in kinds:
        kind = quote(str(descriptor.get("mediaType")))
        raise Unimplemented(f"{source.what}: {digest[:19]}: type {kind}: this is no container image")
    blob = _blob(source, digest)
    blob.verify(digest, descriptor["size"])
    return blob.document()


def _check_descriptor(descriptor: Any, what: str) -> str:
    _object(descriptor, what)
    size = descriptor.get("size")
    if type(size) is not int or size < 0:
        raise InvalidArgument(f"{what}: size: must be a number of bytes")
    return check_digest(descriptor.get("digest"), what)


# -- docker archive ----------------------------------------------------------------------------------------------------


def is_docker_archive(source: Source) -> bool:
    """Say whether a source's manifest.json is that of `docker save`: any program may have a file of this name."""
    try:
        manifest = source.open("manifest.json").document()
    except (NotFound, InvalidArgument):
        return False
    return (
        isinstance(manifest, list)
        and bool(manifest)
        and all(isinstance(one, dict) and "Config" in one and "Layers" in one for one in manifest)
    )


def docker_image(source: Source, reference: Reference, platform: Platform) -> Image:
    """Return the one image of a docker archive that is meant. Raises InvalidArgument, NotFound."""
    found = [_archived(one) for one in source.open("manifest.json").document()[:_DESCRIPTORS]]
    named = [candidate for candidate in found if reference.chooses(candidate.names, candidate.digests)]
    if not named:
        raise NotFound(f"{source.what}: no image {quote(reference.chosen)} here{_listed(found)}")
    if len(named) > 1:
        raise InvalidArgument(f"{source.what}: several images{_listed(named)}; choose by IMAGE:TAG or IMAGE@DIGEST")
    chosen = named[0].descriptor
    blob = source.open(chosen["Config"])
    if digest := _digest_of_name(chosen["Config"]):
        blob.verify(digest)
    layers = [source.open(name) for name in chosen["Layers"][: LAYERS + 1]]
    return _image(source, blob.document(), layers, named[0], platform)


def _archived(one: dict[str, Any]) -> _Candidate:
    config = _member(one, "Config", str, "manifest.json")
    layers = _member(one, "Layers", list, "manifest.json")
    tags = one.get("RepoTags") or []
    if not all(isinstance(text, str) for texts in (layers, tags) for text in texts):
        raise InvalidArgument("manifest.json: Layers and RepoTags must be strings")
    return _Candidate(one, list(tags), [_digest_of_name(config) or config])


def _digest_of_name(name: str) -> str:
    """Return the digest that a configuration's name is: `ID.json`, or `blobs/sha256/ID`; "" for another name."""
    digest = "sha256:" + name.rpartition("/")[2].removesuffix(".json")
    try:
        return check_digest(digest, name)
    except InvalidArgument:
        return ""


# -- both --------------------------------------------------------------------------------------------------------------


def _image(source: Source, document: Any, blobs: list[Blob], chosen: _Candidate, platform: Platform) -> Image:
    """Check a configuration against the layers and the platform."""
    config = _object(document, "image configuration")
    if not platform.matches(config):
        described = quote(f"{config.get('os')}/{config.get('architecture')}")
        raise InvalidArgument(f"{source.what}: is for {described}, not {platform} (--platform unpacks it anyway)")
    rootfs = _member(config, "rootfs", dict, "image configuration")
    digests = [check_digest(one, "rootfs.diff_ids") for one in _member(rootfs, "diff_ids", list, "rootfs")]
    if len(blobs) > LAYERS:
        raise InvalidArgument(f"{source.what}: more than {LAYERS} layers")
    if len(digests) != len(blobs):
        raise InvalidArgument(f"{source.what}: {len(blobs)} layers, but digests (rootfs.diff_ids) of {len(digests)}")
    return Image(config, list(zip(blobs, digests, strict=True)), str(chosen))


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidArgument(f"{what}: must be a JSON object")
    return value


def _member(document: dict[str, Any], key: str, kind: type, what: str) -> Any:
    value = document.get(key)
    if type(value) is not kind:
        names = {"dict": "an object", "list": "an array", "str": "a string"}
        raise InvalidArgument(f"{what}: {key}: must be {names[kind.__name__]}")
    return value


def _only_one(document: dict[str, Any], what: str, others: tuple[str, ...]) -> None:
    for key in others:
        if key in document:
            raise InvalidArgument(f"{what}: has {key} as well: it could be read as something else")
