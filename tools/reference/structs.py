"""What a record's source says of itself: docstrings, fields, types in words, comments."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

# What the aliases and types of the source mean to a person.
WORDS = {
    "str": "text",
    "Family": "text",
    "bool": "true or false",
    "float": "number",
    "int": "whole number",
    "Positive": "number above 0",
    "NotNegative": "number, 0 or more",
    "Count": "whole number, 0 or more",
    "AtLeastOne": "whole number, 1 or more",
    "Row": "row, counted from 0",
    "ClassName": "`training`, `maas`, `internal` or `external`",
    "Kind": "`gang` or `lease`",
}


@dataclass(frozen=True)
class Field:
    """One field of a record."""

    name: str
    kind: str
    default: str  # as TOML or JSON would say it; empty: it must be given
    comment: str


@dataclass(frozen=True)
class Struct:
    """One class of the source."""

    name: str
    doc: str
    fields: tuple[Field, ...]


def structs(path: Path) -> dict[str, Struct]:
    """Every record of a file, by name, in the file's order."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = tuple(
                _field(item, lines)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
            found[node.name] = Struct(node.name, ast.get_docstring(node) or "", fields)
    return found


def _field(item: ast.AnnAssign, lines: list[str]) -> Field:
    assert isinstance(item.target, ast.Name)
    name = item.target.id
    default = ""
    if isinstance(item.value, ast.Call):  # msgspec.field(name=...)
        renamed = {word.arg: word.value for word in item.value.keywords}
        if "name" in renamed:
            name = ast.literal_eval(renamed["name"])
        if "default" in renamed:
            default = _value(renamed["default"])
    elif item.value is not None:
        default = _value(item.value)
    assert item.end_lineno is not None
    comment = re.search(r"  # (.*)$", lines[item.end_lineno - 1])
    text = comment[1] if comment and not comment[1].startswith(("noqa", "fmt")) else ""
    return Field(name, in_words(item.annotation), default, text)


def _value(node: ast.expr) -> str:
    value = ast.literal_eval(node)
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{part}"' for part in value) + "]"
    return str(value)


def in_words(node: ast.expr) -> str:
    """An annotation as a person would say it; a record's name stays, to be linked."""
    if isinstance(node, ast.Name):
        return WORDS.get(node.id, node.id)
    if isinstance(node, ast.BinOp):  # X | None; a file says None by leaving the field out
        assert isinstance(node.right, ast.Constant), ast.unparse(node)
        return in_words(node.left)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _generic(node.value.id, node.slice)
    raise AssertionError(f"no words for {ast.unparse(node)}")


def _generic(name: str, inside: ast.expr) -> str:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Literal":
        return " or ".join(f"`{ast.literal_eval(part)}`" for part in parts)
    if name == "tuple":
        return f"list of {in_words(parts[0])}"
    if name == "dict":
        return f"table by {in_words(parts[0]).replace('text', 'name')}: {in_words(parts[1])}"
    if name == "Annotated":
        return _bounded(parts[0], parts[1])
    raise AssertionError(f"no words for {name}[{ast.unparse(inside)}]")


def _bounded(kind: ast.expr, meta: ast.expr) -> str:
    assert isinstance(meta, ast.Call)
    bounds = {word.arg: ast.literal_eval(word.value) for word in meta.keywords}
    base = in_words(kind)
    if set(bounds) == {"ge", "le"}:
        return f"{base} from {bounds['ge']} to {bounds['le']}"
    if set(bounds) == {"ge"}:
        return f"{base}, {bounds['ge']} or more"
    raise AssertionError(f"no words for the bounds {bounds}")


def rows(struct: Struct, linked: dict[str, str]) -> list[str]:
    """The fields as rows of a table; record names become links by `linked`."""
    lines = ["| field | is | default | meaning |", "|---|---|---|---|"]
    for field in struct.fields:
        kind = re.sub(r"\b[A-Z]\w+\b", lambda m: linked.get(m[0], m[0]), field.kind)
        default = f"`{field.default}`" if field.default else ""
        lines.append(f"| `{field.name}` | {kind} | {default} | {field.comment} |")
    return lines
