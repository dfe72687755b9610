"""The JSON Schema of gateway.yaml, for editors that complete and underline while one types.

Owns: how the structs, the drivers' keys and the comments of the shipped example become one schema. Promises: what
`check` refuses in a single field the schema refuses too, as far as JSON Schema can say it; every description is the
comment that stands beside the key in config/gateway.yaml. Never: used by the running service.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

import drivers
from drivers import Wire
from drivers.strictyaml.tree import Node, compose
from gateway.config import Config
from gateway.site import SHIPPED

_COMMENTED_OUT = re.compile(r"^( *)# ( *(?:- )?[a-z_]+:(?: .*)?)$", re.MULTILINE)


def everything(text: str) -> str:
    """Return the shipped example with its commented-out keys switched on."""
    return _COMMENTED_OUT.sub(r"\1\2", text)


def schema() -> dict[str, Any]:
    """Build the schema (JSON Schema 2020-12, as nested plain data)."""
    wires = {name: drivers.find(name).Wire for name in drivers.names()}
    (root,), parts = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    del parts["Wire"]
    for name, wire in wires.items():
        (_,), more = msgspec.json.schema_components([wire], ref_template=f"#/$defs/{name}.{{name}}")
        for part, body in more.items():
            parts[f"{name}.{part}"] = body
        own = parts[f"{name}.{wire.__name__}"]
        own["properties"]["driver"] = {"const": name}
    alternatives = [{"$ref": f"#/$defs/{name}.{wire.__name__}"} for name, wire in wires.items()]
    # if/then rather than oneOf: an editor then complains about the one key that is wrong, not about all drivers
    parts["Wire"] = {
        "type": "object", "required": ["id", "driver"],
        "properties": {"driver": {"enum": list(wires)}},
        "allOf": [{"if": {"properties": {"driver": {"const": name}}, "required": ["driver"]}, "then": ref}
                  for name, ref in zip(wires, alternatives, strict=True)]}
    notes = comments(everything((SHIPPED / "gateway.yaml").read_text(encoding="utf-8")))
    # one wire of the example says for all drivers what id, driver and name are
    own_parts = {ref["$ref"].rpartition("/")[2] for ref in alternatives}
    shared = {key: note for (part, key), note in reversed(notes.items())
              if part in own_parts and key in Wire.__struct_fields__}
    for part, body in parts.items():
        for key, spec in body.get("properties", {}).items():
            if note := notes.get((part, key)) or (part in own_parts and shared.get(key)):
                spec["description"] = note
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Mingluo: gateway.yaml",
             **root, "$defs": dict(sorted(parts.items()))}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))   # tuples among the defaults become lists
    return plain


def comments(text: str) -> dict[tuple[str, str], str]:
    """Read (name of the schema's part, key) → comment beside the key, from a documented example."""
    root, source, _ = compose(text.encode())
    found: dict[tuple[str, str], str] = {}

    def walk(node: Node, kind: inspect.Type, prefix: str) -> None:
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
        if isinstance(kind, inspect.UnionType):
            for option in kind.types:
                walk(node, option, prefix)
        elif isinstance(kind, inspect.VarTupleType):
            for item in node.items:
                walk(item, kind.item_type, prefix)
        elif isinstance(kind, inspect.StructType) and node.kind == "map":
            if kind.cls is Wire:
                prefix = next(v.text for k, v in node.pairs if k.text == "driver")
                named = inspect.type_info(drivers.find(prefix).Wire)
                assert isinstance(named, inspect.StructType)
                kind, prefix = named, f"{prefix}."
            fields = {f.encode_name: f.type for f in kind.fields}
            for key, value in node.pairs:
                beside = source.lines[key.line].partition(" # ")[2].strip()
                if beside:
                    found.setdefault((prefix + kind.cls.__name__, key.text), beside)
                if key.text in fields:
                    walk(value, fields[key.text], prefix)

    if root is not None:
        walk(root, inspect.type_info(Config), "")
    return found
