"""Config files: TOML into typed records, and every mistake in one sentence."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from headgate.core.errors import InputError

T = TypeVar("T")


def load(path: Path, kind: type[T]) -> T:
    """Read a TOML file as `kind`.

    A file may say `extends = "other.toml"`, a path beside it: its own values are laid over the
    other's, table by table; a list replaces the other's list.
    Raises InputError that names file, field, value and what is allowed.
    """
    return convert(_raw(path, ()), kind, path.name)


def _raw(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tables, laid over those of the file it extends."""
    if path in above:
        raise InputError(f"{path} extends itself; drop one extends.")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the path of a TOML file."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; give a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path.name} is not valid TOML: {error}; mend that line.") from None
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise InputError(f"{path.name}: extends is {base!r}; give the name of a file beside it.")
    return _laid_over(_raw(path.parent / base, (*above, path)), raw)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        nested = isinstance(old, dict) and isinstance(value, dict)
        both[key] = _laid_over(old, value) if nested else value  # type: ignore[arg-type]
    return both


def convert(raw: dict[str, Any], kind: type[T], name: str) -> T:
    """Tables as `kind`; `name` stands for the file in errors."""
    if endless := _endless(raw):
        raise InputError(f"{name}: {endless} is not a finite number; give one.")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: {_sentence(str(error), raw, kind)}") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _endless(raw: Any, path: str = "") -> str:
    """The path of the first number that is infinite or none at all; TOML can say both."""
    if isinstance(raw, float):
        return "" if math.isfinite(raw) else path
    if isinstance(raw, dict):
        inside = [(f"{path}.{key}" if path else key, value) for key, value in raw.items()]
    elif isinstance(raw, list):
        inside = [(f"{path}[{i}]", value) for i, value in enumerate(raw)]
    else:
        return ""
    return next((found for place, value in inside if (found := _endless(value, place))), "")


def _sentence(message: str, raw: Any, kind: Any) -> str:
    """msgspec's message, with the field's path first and the value that stood there."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    unknown = re.match(r"Object contains unknown field `(.*)`", what)
    if unknown:
        field = f"{path}.{unknown[1]}" if path else unknown[1]
        allowed = ", ".join(_fields(kind, path)) or "none"
        return f"{field} is not known; allowed there are {allowed}; remove it or mend its name."
    missing = re.match(r"Object missing required field `(.*)`", what)
    if missing:
        field = f"{path}.{missing[1]}" if path else missing[1]
        return f"{field} is missing; give it."
    enum = re.match(r"Invalid enum value '(.*?)'", what)
    if enum:
        keys = what.partition(" - at `key` in `$")[2].strip("`.")
        allowed = ", ".join(_choices(kind, keys or path, keys=bool(keys)))
        where = f"{keys} names" if keys else f"{path} is"
        return f"{where} {enum[1]!r}; allowed are {allowed}; choose one."
    value = _value(raw, path)
    what = what[0].lower() + what[1:]
    return f"{path} is {value!r}; {what}; mend it." if path else f"{what}; mend it."


def _steps(path: str) -> list[str]:
    return [step for step in re.split(r"[.\[\]]+", path) if step]


def _value(raw: Any, path: str) -> Any:
    """What the file says at a path such as `pools[0].nodes`."""
    for step in _steps(path):
        try:
            raw = raw[int(step)] if isinstance(raw, list) else raw[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return "..."
    return raw


def _fields(kind: Any, path: str) -> list[str]:
    """The names allowed in the record that stands at a path."""
    info = msgspec.inspect.type_info(kind)
    for step in _steps(path):
        info = _inside(info, step)
    if isinstance(info, msgspec.inspect.StructType):
        return [field.encode_name for field in info.fields]
    return []


def _choices(kind: Any, path: str, *, keys: bool) -> list[str]:
    """The values allowed at a path, or as keys of the table that stands there."""
    info = msgspec.inspect.type_info(kind)
    for step in _steps(path):
        info = _inside(info, step)
    if keys and isinstance(info, msgspec.inspect.DictType):
        info = _plain(info.key_type)
    if isinstance(info, msgspec.inspect.LiteralType):
        return [str(value) for value in info.values]
    return []


def _inside(info: Any, step: str) -> Any:
    """The type one step further down: a field, an element or a value."""
    if isinstance(info, msgspec.inspect.UnionType):
        structs = [kind for kind in info.types if not isinstance(kind, msgspec.inspect.NoneType)]
        info = structs[0]
    if isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            if field.encode_name == step:
                return _plain(field.type)
        return None
    if isinstance(info, msgspec.inspect.DictType):
        return _plain(info.value_type)
    return _plain(getattr(info, "item_type", None))


def _plain(info: Any) -> Any:
    """Without the constraints and options around it."""
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.UnionType):
        real = [kind for kind in info.types if not isinstance(kind, msgspec.inspect.NoneType)]
        return _plain(real[0]) if real else None
    return info
