"""The law of imports and the few habits a tool can keep: read from the source, so that it holds for files to come."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("gateway.judgement", "gateway.journal", "gateway.uplink")

OWNERS = {
    # library: who may import it (a module, or a room with all its modules)
    "pymodbus": {"drivers.exchange"},
    "serial": {"drivers.serialport"},
    "gpiozero": {"drivers.pins"},
    "lgpio": {"drivers.pins"},
    "sqlite3": {"gateway.journal", "gateway.county"},
    "paho": {"gateway.uplink", "gateway.county"},
    "yaml": {"drivers.strictyaml", "gateway.safe"},  # safe must work where the strict reader refuses
    "prometheus_client": {"gateway.metrics"},
    "typer": {"gateway.cli", "gateway.installer.commands", "gateway.installer.options", "gateway.installer.discover",
              "gateway.county.commands", "gateway.journal_cli", "gateway.history_cli"},
    "click": {"gateway.cli"},
    "rich": {"gateway.cli", "gateway.installer.screen"},
    "ctypes": {"gateway.kernelclock", "gateway.heap"},
    "sqlite_utils": {"gateway.county", "gateway.journal.export"}, "psycopg": {"gateway.county"},
    "asyncio": set(), "amqtt": set(), "pytest": set(), "hypothesis": set(),
}
CONCRETE = {"gateway.judgement.pipeline", "gateway.journal.journal", "gateway.uplink.uplink", "gateway.outputs",
            "gateway.supervisor", "gateway.corridor", "gateway.detector"}
"""Only `gateway.app` puts these together."""
CODEC = {"drivers.template", "drivers.sensor", "drivers.reader", "drivers.registers", "drivers.exchange",
         "drivers.planner", "drivers.sheet", "drivers.identify", "drivers.transform", "drivers.imitation",
         "drivers.writing"}
"""What the rig may share with the product: the meaning of bytes and of time on a line, never a port."""
PURE = ("gateway.judgement", "gateway.model", "drivers.planner", "drivers.registers", "drivers.transform",
        "drivers.counter", "drivers.payload", "gateway.plan.timeline", "gateway.plan.flash", "gateway.polls",
        "gateway.journal.series",
        "gateway.uplink.budget", "gateway.uplink.message", "gateway.uplink.pulse", "gateway.uplink.route",
        "gateway.uplink.window")
PURE_MAY = {"__future__", "abc", "bisect", "collections", "dataclasses", "decimal", "enum", "fractions", "functools",
            "heapq", "itertools", "math", "operator", "re", "string", "struct", "types", "typing", "zlib",
            "numpy", "msgspec", "drivers", "gateway"}
LONGEST = 400
NAMELESS = {"utils", "util", "common", "helpers", "helper", "manager", "base", "core", "misc"}


def within(module: str, places: object) -> bool:
    """Whether a module is one of the places or lies in one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


@cache
def modules(*packages: str) -> dict[str, Path]:
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module a file imports anywhere in it; ``from a import b`` counts as a.b where that is a module."""
    known = modules("gateway", "drivers", "hil")
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else str(node.module))
    return frozenset(found)


def offences(packages: tuple[str, ...], forbidden) -> list[str]:
    return [f"{module} imports {name}" for module, path in modules(*packages).items()
            for name in sorted(imports(path)) if forbidden(module, name)]


MEASURED = ("gateway.journal", "gateway.judgement.detect", "gateway.model")


def test_the_law_is_read_from_a_whole_tree():
    assert {"gateway.model", "gateway.app", "drivers"} <= set(modules("gateway", "drivers"))
    assert "gateway.model" in imports(modules("gateway")["gateway.metrics"])
    assert within("gateway.uplink.mqtt", ROOMS)
    assert not within("gateway.uplinks", ROOMS)


def test_drivers_know_nothing_of_meaning():
    assert offences(("drivers",), lambda _, name: within(name, ("gateway", "hil"))) == []


def test_the_product_knows_nothing_of_the_rig():
    assert offences(("gateway",), lambda module, name: within(name, ("hil",)) and module != "gateway.cli") == []


def test_the_rig_looks_from_outside():
    def inside(module: str, name: str) -> bool:
        own = within(name, ("gateway", "drivers"))
        # What a part costs by itself has no outside: such a part may be measured, in a process of its own.
        weighed = within(module, ("hil.bench",)) and within(name, MEASURED)
        return own and not weighed and name not in CODEC | {"drivers", "gateway.client"}
    assert offences(("hil",), inside) == []


def test_tests_are_imported_by_nobody():
    assert offences(("gateway", "drivers", "hil"), lambda _, name: within(name, ("tests",))) == []


def test_rooms_meet_only_through_the_vocabulary():
    shared = {"gateway.model", "gateway.config", "drivers", "drivers.counter"}

    def trespass(module: str, name: str) -> bool:
        room = next((room for room in ROOMS if within(module, (room,))), None)
        return room is not None and within(name, ("gateway", "drivers")) and not (
            name in shared or within(name, (room,)))
    assert offences(("gateway",), trespass) == []


def test_the_journal_knows_neither_configuration_nor_hardware():
    assert offences(("gateway/journal",), lambda _, name: within(name, ("gateway.config", "drivers"))) == []


def test_only_app_names_concrete_classes_together():
    def names(module: str, name: str) -> bool:
        same_room = any(within(module, (room,)) and within(name, (room,)) for room in ROOMS)
        return name in CONCRETE and module != "gateway.app" and not same_room and not within(module, ("hil.bench",))
    assert offences(("gateway", "drivers", "hil"), names) == []


def test_nobody_imports_app_but_the_commands():
    assert offences(("gateway", "drivers", "hil"), lambda module, name: name == "gateway.app" and module not in (
        "gateway.cli", "gateway.__main__")) == []


def test_pure_modules_do_no_io_and_read_no_clock():
    assert offences(("gateway", "drivers"), lambda module, name: within(module, PURE) and (
        name.split(".")[0] not in PURE_MAY)) == []
    for module, path in modules("gateway", "drivers").items():
        if within(module, PURE):
            called = {node.func.id for node in ast.walk(tree(path))
                      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert not called & {"open", "input", "print", "exec", "eval", "__import__"}, module


@pytest.mark.parametrize("library", OWNERS)
def test_every_library_has_one_owner(library):
    assert offences(("gateway", "drivers"), lambda module, name: within(name, (library,)) and not within(
        module, OWNERS[library])) == []


def test_the_clock_teller_needs_nothing_but_python():
    path = modules("gateway")["gateway.kernelclock"]
    assert {name.split(".")[0] for name in imports(path)} <= set(sys.stdlib_module_names)


def test_the_service_imports_only_what_it_runs():
    code = "import sys, gateway.app, gateway.safe; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT,
                            check=False)
    assert loaded.returncode == 0, loaded.stderr
    unwanted = {"typer", "rich", "click", "sqlite_utils", "prometheus_client", "pytest", "hil", "amqtt", "hypothesis",
                "jsonschema", "unittest"}
    assert unwanted & set(loaded.stdout.split()) == set()


def test_only_commands_know_the_installers_rooms():
    """The running service must never do what an installer does: it would use a port it has lent."""
    assert offences(("gateway", "drivers"), lambda module, name: within(name, ("gateway.installer",)) and not within(
        module, ("gateway.installer", "gateway.cli"))) == []
    code = "import sys, gateway.app; print(any(m.startswith('gateway.installer') for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT,
                            check=False)
    assert loaded.stdout == "False\n", loaded.stderr


def test_an_installers_room_needs_no_configuration_and_no_service():
    may = {"gateway.client"}   # how to knock at the control socket
    assert offences(("gateway/installer",), lambda _, name: within(name, ("gateway",)) and not within(
        name, {"gateway.installer", *may})) == []


@pytest.mark.parametrize("package", ["gateway", "drivers", "hil"])
def test_no_module_is_called_after_nothing(package):
    assert [str(path) for path in modules(package).values() if NAMELESS & {path.stem, path.parent.name}] == []


def test_a_module_says_what_it_owns_promises_and_never_does():
    silent = []
    for module, path in modules("gateway", "drivers").items():
        said = ast.get_docstring(tree(path)) or ""
        if not said:
            silent.append(f"{module}: no docstring")
        elif len(path.read_text(encoding="utf-8").splitlines()) > 40:
            silent += [f"{module}: no {word!r}" for word in ("owns", "promise", "never") if word not in said.lower()]
    assert silent == []


def test_no_module_has_grown_a_second_noun():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines())
               for module, path in modules("gateway", "drivers", "hil").items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST} == {}


def test_the_service_speaks_through_its_log():
    told = [f"{module}:{node.lineno}" for module, path in modules("gateway", "drivers").items()
            if module not in ("gateway.cli", "gateway.__main__") for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert told == []


def test_no_fault_is_swallowed():
    """``except Exception: pass`` and its kin hide the one thing somebody will need to know."""
    def wide(caught: ast.expr | None) -> bool:
        return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))
    hidden = [f"{module}:{node.lineno}" for module, path in modules("gateway", "drivers").items()
              for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler) and wide(node.type)
              and all(isinstance(deed, ast.Pass | ast.Continue) for deed in node.body)]
    assert hidden == []
