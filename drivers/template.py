"""A sensor model: one YAML file that looks like the datasheet and proves itself with its own examples.

Owns: finding a model by name, reading its file (`sensor` has the shapes) and having its example frames run. Promises: a
template that loads has examples for every point, and each of them comes out as written, through the codec the driver
and the simulator use. Never: opens hardware, evaluates expressions; a template is plain data.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec.json
import msgspec.structs

from drivers import Library, PointInfo, SetupError, strictyaml
from drivers.proof import complaints
from drivers.sensor import Template


def load(path: Path) -> Template:
    """Read, check and prove one template.

    Raises:
        strictyaml.Problems: all that is wrong, with lines.
    """
    parsed = strictyaml.parse(strictyaml.read(path), str(path), Template)
    if parsed.value is None:
        raise strictyaml.Problems(parsed.problems)
    template = msgspec.structs.replace(parsed.value, model=path.stem)
    if parsed.value.model not in ("", path.stem):
        raise strictyaml.Problems([parsed.problem(("model",), f"found {parsed.value.model!r}: a model is called by "
                                                              f"its file's name, {path.stem!r}; leave the key out")])
    if wrong := complaints(template):
        raise strictyaml.Problems([parsed.problem(where, text) for where, text in wrong])
    return template


def names(library: Library) -> list[str]:
    """Names of all models in the library."""
    return sorted({path.stem for folder in library for path in folder.glob("*.yaml")})


def find(name: str, library: Library) -> Template:
    """Return the model called `name`; the first folder that has it wins.

    Raises:
        SetupError: there is none (the message lists the nearest names), or its file is wrong (the message says where).
    """
    if Path(name).name == name:
        for folder in library:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return _loaded(path, path.stat().st_mtime_ns)
    known = names(library)
    near = difflib.get_close_matches(name, known, 3, 0.4) or known[:12]
    raise SetupError(f"no sensor model called {name!r}; nearest: {', '.join(near) or 'none at all'}; "
                     f"looked in {', '.join(map(str, library)) or 'no folder'}")


@lru_cache(maxsize=256)
def _loaded(path: Path, _changed_ns: int) -> Template:
    try:
        return load(path)
    except strictyaml.Problems as problems:
        raise SetupError(f"sensor model {path.stem!r} is broken: {problems}") from problems


def infos(template: Template, given: Mapping[str, float] = {}) -> dict[str, PointInfo]:
    """Point → PointInfo for all points of a model; `given` are the parameters of one device."""
    return {point.id: point.info(template, given) for point in template.points}


def schema() -> dict[str, Any]:
    """JSON Schema of a template file, for editors."""
    return msgspec.json.schema(Template)
