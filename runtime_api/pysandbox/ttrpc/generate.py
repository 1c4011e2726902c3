"""Make Python classes of .proto files: `python -m pysandbox.ttrpc.generate DIRECTORY[:PROTOS]=PACKAGE …`.

For every `NAME.proto` in PROTOS (`DIRECTORY/proto` if it is not given) it writes `DIRECTORY/messages/NAME.py`, the
module `PACKAGE.messages.NAME`. Files import each other by bare name, those of an earlier argument too. protoc of
grpcio-tools reads them; it is needed here and nowhere else. What the codec has not (oneof, recursion, fixed and zigzag
numbers, float, maps of messages) is refused.
"""

from __future__ import annotations

import os
import sys
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

#: google.protobuf.FieldDescriptorProto.Type → our kind, and how Python says it.
_KINDS = {
    1: ("DOUBLE", "float"),
    3: ("INT64", "int"),
    4: ("UINT64", "int"),
    5: ("INT32", "int"),
    8: ("BOOL", "bool"),
    9: ("STRING", "str"),
    11: ("MESSAGE", ""),
    12: ("BYTES", "bytes"),
    13: ("UINT32", "int"),
    14: ("INT32", "int"),  # an enum
}
_ZERO = {"float": "0.0", "int": "0", "bool": "False", "str": '""', "bytes": 'b""'}


class Unsupported(Exception):
    """A .proto file has something that the codec has not."""


class Source:
    """The .proto files of one directory, and the package that their modules are in."""

    def __init__(self, argument: str) -> None:
        places, _, self.package = argument.partition("=")
        if not self.package:
            raise SystemExit(f"{argument}: is not DIRECTORY[:PROTOS]=PACKAGE")
        self.directory, _, protos = places.partition(":")
        self.protos = protos or os.path.join(self.directory, "proto")
        self.names = sorted(name.removesuffix(".proto") for name in os.listdir(self.protos) if name.endswith(".proto"))


def compile_protos(sources: Sequence[Source]) -> bytes:
    """Return the google.protobuf.FileDescriptorSet of all files, imported ones first."""
    from grpc_tools import protoc

    with tempfile.NamedTemporaryFile() as out:
        paths = [f"--proto_path={source.protos}" for source in sources]
        files = [f"{name}.proto" for source in sources for name in source.names]
        if protoc.main(["protoc", *paths, f"--descriptor_set_out={out.name}", "--include_source_info", *files]):
            raise SystemExit("protoc refused the files")
        return out.read()


class Names:
    """Where the class of each message is: by its full name, the module and the name in it."""

    def __init__(self, files: Any, modules: dict[str, str]) -> None:
        self.places: dict[str, tuple[str, str]] = {}
        for file in files:
            for message in file.message_type:
                self.places[f".{file.package}.{message.name}"] = (modules[file.name], message.name)
                if [inner for inner in message.nested_type if not inner.options.map_entry] or message.enum_type:
                    raise Unsupported(f"{file.package}.{message.name}: nested types")


def python_module(file: Any, names: Names, module: str) -> str:
    """Return the source of one module."""
    body = [line for enum in file.enum_type for line in _enum(enum, file.package)]
    used: set[str] = set()
    places: set[tuple[str, str]] = set()
    for message in _in_order(file.message_type, file.package):
        lines, kinds, types = _message(message, file.package, names)
        body += lines
        used |= kinds
        places |= types
    for service in file.service:
        lines, types = _service(service, file.package, names)
        body += lines
        places |= types
    imports = _imports(module, used, places, services=bool(file.service), messages=bool(file.message_type))
    title = f'"""Messages of {file.package}. Made by pysandbox.ttrpc.generate from proto/{file.name}: do not edit."""'
    text = "\n".join([title, "", "from __future__ import annotations", "", *imports, *body])
    return text.rstrip("\n") + "\n"


def _imports(
    module: str, kinds: set[str], places: set[tuple[str, str]], *, services: bool, messages: bool
) -> Iterator[str]:
    other: dict[str, set[str]] = {}
    if messages:
        other["pysandbox.ttrpc.message"] = kinds | {"Message"}
    if services:
        other["pysandbox.ttrpc.service"] = {"Method", "Service"}
    for place, name in places:
        if place != module:
            other.setdefault(place, set()).add(name)
    for place in sorted(other):
        yield f"from {place} import {', '.join(sorted(other[place], key=_isort_key))}"
    yield ""
    if messages:
        yield "TYPE_CHECKING = False"


def _isort_key(name: str) -> tuple[bool, str]:
    return (not name.isupper(), name)


def _in_order(messages: Iterable[Any], package: str) -> list[Any]:
    """Return messages so that each follows those it holds."""
    waiting = list(messages)
    done: list[Any] = []
    while waiting:
        open_names = {f".{package}.{message.name}" for message in waiting}
        ready = [message for message in waiting if not open_names & {field.type_name for field in message.field}]
        if not ready:
            raise Unsupported(f"{package}: messages that hold themselves: {sorted(open_names)}")
        done += ready
        waiting = [message for message in waiting if message not in ready]
    return done


def _enum(enum: Any, package: str) -> Iterator[str]:
    yield from ("", f"class {enum.name}:", f'    """{package}.{enum.name}."""', "")
    yield from (f"    {value.name} = {value.number}" for value in enum.value)
    yield ""


def _message(message: Any, package: str, names: Names) -> tuple[list[str], set[str], set[tuple[str, str]]]:
    """Return a class's lines, the codec's names that it uses, and the messages that it holds."""
    kinds: set[str] = set()
    places: set[tuple[str, str]] = set()
    table, types = [], []
    if any(not field.proto3_optional and field.HasField("oneof_index") for field in message.field):
        raise Unsupported(f"{package}.{message.name}: oneof")
    for field in sorted(message.field, key=lambda field: field.number):
        label, kind, extra, annotation, zero, place = _field(message, field, names)
        kinds |= {label, kind, *(extra.strip("()").split(", ") if label == "MAP" else ())}
        if place:
            places.add(place)
        table.append(f'        ({field.number}, "{field.name}", {kind}, {label}, {extra}),')
        types.append((field.name, annotation, zero))
    lines = ["", f"class {message.name}(Message):", f'    """{package}.{message.name}."""', ""]
    slots = " ".join(f'"{name}",' for name, *_ in types)
    lines.append(f"    __slots__ = ({slots})")
    lines.append(f'    NAME = "{package}.{message.name}"')
    if types:
        lines += ["    FIELDS = (", *table, "    )", "    if TYPE_CHECKING:"]
        lines += [f"        {name}: {annotation}" for name, annotation, _ in types]
        given = ", ".join(f"{name}: {annotation} = {zero}" for name, annotation, zero in types)
        lines.append(f"        def __init__(self, *, {given}) -> None: ...")
    return [*lines, ""], kinds, places


def _field(message: Any, field: Any, names: Names) -> tuple[str, str, str, str, str, tuple[str, str] | None]:
    """Return label, kind, class or map kinds, annotation, default, and where the class is."""
    where = f"{message.name}.{field.name}"
    if field.type not in _KINDS:
        raise Unsupported(f"{where}: type {field.type}")
    kind, annotation = _KINDS[field.type]
    many = field.label == 3
    entries = {f"{inner.name}": inner for inner in message.nested_type if inner.options.map_entry}
    if kind == "MESSAGE" and (entry := entries.get(field.type_name.rpartition(".")[2])) is not None:
        pair = [_KINDS[part.type] for part in entry.field]
        if pair[1][0] == "MESSAGE":
            raise Unsupported(f"{where}: a map of messages")
        annotation = f"dict[{pair[0][1]}, {pair[1][1]}]"
        return "MAP", kind, f"({pair[0][0]}, {pair[1][0]})", annotation, "...", None
    place = names.places[field.type_name] if kind == "MESSAGE" else None
    extra = place[1] if place else "None"
    annotation = extra if place else annotation
    if many:
        return "REPEATED", kind, extra, f"list[{annotation}]", "...", place
    if place or field.proto3_optional:
        return "OPTIONAL" if field.proto3_optional else "SINGLE", kind, extra, f"{annotation} | None", "None", place
    return "SINGLE", kind, extra, annotation, _ZERO[annotation], place


def _service(service: Any, package: str, names: Names) -> tuple[list[str], set[tuple[str, str]]]:
    lines = ["", f"{service.name} = Service(", f'    "{package}.{service.name}",', "    ("]
    places = set()
    for method in service.method:
        request, response = names.places[method.input_type], names.places[method.output_type]
        places |= {request, response}
        flags = ", client_streams=True" if method.client_streaming else ""
        flags += ", server_streams=True" if method.server_streaming else ""
        lines.append(f'        Method("{method.name}", {request[1]}, {response[1]}{flags}),')
    return [*lines, "    ),", ")", ""], places


def generate(arguments: Sequence[str]) -> dict[str, str]:
    """Return the source of every module by its path."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    sources = [Source(argument) for argument in arguments]
    files = FileDescriptorSet.FromString(compile_protos(sources)).file
    modules = {f"{name}.proto": f"{source.package}.messages.{name}" for source in sources for name in source.names}
    paths = {
        f"{name}.proto": os.path.join(source.directory, "messages", f"{name}.py")
        for source in sources
        for name in source.names
    }
    names = Names(files, modules)
    return {paths[file.name]: python_module(file, names, modules[file.name]) for file in files}


def main() -> None:
    """Write the modules."""
    for path, text in generate(sys.argv[1:]).items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
