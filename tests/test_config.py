"""The configuration: what is refused and how it is said, the shipped examples, the schema, secrets."""

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drivers
from drivers import SetupError, strictyaml
from drivers.strictyaml import Problem
from gateway import site
from gateway.config import Config, Platform
from gateway.schema import comments, everything
from gateway.schema import schema as build_schema

CASES = sorted(Path(__file__).with_name("check").iterdir())
SHIPPED = site.SHIPPED
SCHEMA = SHIPPED / "schema" / "gateway.schema.json"


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
def test_check_says_exactly_what_is_expected(case: Path, monkeypatch: pytest.MonkeyPatch):
    """A case is a folder: gateway.yaml as the site saved it, expected.txt with every message in order."""
    monkeypatch.chdir(case)
    said = [str(p).replace(str(SHIPPED), "{shipped}") for p in site.check(Path("gateway.yaml"))]
    assert "".join(f"{line}\n" for line in said) == Path("expected.txt").read_text(encoding="utf-8")
    if said:
        with pytest.raises(strictyaml.Problems) as caught:
            site.load(Path("gateway.yaml"))
        assert str(caught.value).replace(str(SHIPPED), "{shipped}").splitlines() == "\n".join(said).splitlines()
    else:
        assert isinstance(site.load(Path("gateway.yaml")), Config)


def test_there_are_enough_cases_and_none_tells_a_secret():
    assert len(CASES) >= 45
    told = [c.name for c in CASES if "hunter2" in (c / "expected.txt").read_text(encoding="utf-8")]
    assert told == []
    assert sum("hunter2" in (c / "gateway.yaml").read_bytes().decode("utf-8", "replace") for c in CASES) >= 6


@pytest.mark.parametrize("name", ["demo.yaml", "gateway.yaml"])
def test_shipped_configurations_are_good(name: str):
    assert site.check(SHIPPED / name) == []
    loaded = site.load(SHIPPED / name)
    assert loaded.gateway.name.startswith("石门县雷家山监测站")


def test_the_example_is_good_with_all_its_keys_switched_on(tmp_path: Path):
    full = everything((SHIPPED / "gateway.yaml").read_text(encoding="utf-8"))
    (tmp_path / "gateway.yaml").write_text(full, encoding="utf-8")
    assert site.check(tmp_path / "gateway.yaml") == []


def test_the_example_shows_every_key_with_a_comment():
    """Of everything but the replay wire, which no site needs."""
    noted = comments(everything((SHIPPED / "gateway.yaml").read_text(encoding="utf-8")))
    schema = build_schema()
    missing = [f"{part}.{key}" for part, body in schema["$defs"].items() if part != "Wire"
               and not part.startswith("replay.") for key in body.get("properties", {})
               if (part, key) not in noted and not (part.endswith("Wire") and key in ("id", "driver", "name"))]
    assert missing == []


def test_missing_file_and_folder_are_problems(tmp_path: Path):
    assert site.check(tmp_path / "none.yaml") == [
        Problem(str(tmp_path / "none.yaml"), 1, 1, "", "cannot be read: No such file or directory")]
    assert site.check(tmp_path)[0].message == "cannot be read: Is a directory"


def test_library_is_the_site_first():
    assert site.library(Path("/etc/mingluo/gateway.yaml")) == (Path("/etc/mingluo/sensors"), SHIPPED / "sensors")


# --- schema


def plain(data: bytes) -> Any:
    """The file as an editor's YAML 1.2 sees it."""
    return strictyaml.parse(data, "x", Any).value


def test_schema_file_is_fresh():
    """After a change of structs or of the example: mingluo schema > config/schema/gateway.schema.json."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == build_schema()


def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["demo.yaml", "gateway.yaml"])
def test_schema_accepts_the_shipped_configurations(name: str):
    assert [e.message for e in validator().iter_errors(plain((SHIPPED / name).read_bytes()))] == []


@pytest.mark.parametrize("case", ["unknown_key", "unknown_key_of_variant", "unknown_driver", "missing_driver",
                                  "wrong_literal", "out_of_bounds", "wrong_types", "key_of_other_driver", "bad_id",
                                  "password_in_file", "version_unknown", "impossible_baud_rate",
                                  "authority_not_signed"])
def test_schema_refuses_what_one_field_can_tell(case: str):
    data = plain((Path(__file__).with_name("check") / case / "gateway.yaml").read_bytes())
    assert list(validator().iter_errors(data)) != []


def test_schema_names_every_installed_driver():
    schema = build_schema()
    assert schema["$defs"]["Wire"]["properties"]["driver"]["enum"] == drivers.names()
    assert set(re.findall(r"#/\$defs/([^\"]+)", json.dumps(schema))) <= set(schema["$defs"])


def test_example_names_its_schema():
    first = (SHIPPED / "gateway.yaml").read_text(encoding="utf-8").splitlines()[0]
    link = first.removeprefix("# yaml-language-server: $schema=")
    assert (SHIPPED / link).samefile(SCHEMA)


# --- secrets


def platform(**more: Any) -> Platform:
    return Platform(id="county", host="h", port=1883, username="u", **more)


def test_secret_comes_from_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert site.secret(platform(), tmp_path) is None
    monkeypatch.setenv("COUNTY_PASSWORD", "密码 1")
    assert site.secret(platform(password_env="COUNTY_PASSWORD"), tmp_path) == "密码 1"
    file = tmp_path / "p"
    file.write_text("hunter2 \n", encoding="utf-8")
    for mode in (0o600, 0o400):
        file.chmod(mode)
        assert site.secret(platform(password_file="p"), tmp_path) == "hunter2 "
        assert site.secret(platform(password_file=str(file)), Path("/")) == "hunter2 "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o700])
def test_secret_file_others_can_use_is_refused(tmp_path: Path, mode: int):
    (tmp_path / "p").write_text("hunter2")
    (tmp_path / "p").chmod(mode)
    with pytest.raises(SetupError, match=f"has mode 0{mode:o}, expected 0600") as caught:
        site.secret(platform(password_file="p"), tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("content", "why"), [(b"", "holds 0 bytes"), (b"hunter2\nhunter3\n", "on one line"),
                                              (b"hunter2\xff", "is not UTF-8"), (b"hunter2" * 1000, "bytes, expected")])
def test_secret_file_of_wrong_content_is_refused_without_telling(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "p").write_bytes(content)
    (tmp_path / "p").chmod(0o600)
    with pytest.raises(SetupError, match=why) as caught:
        site.secret(platform(password_file="p"), tmp_path)
    assert "hunter" not in str(caught.value)


def test_secret_that_is_not_there_is_refused_without_telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("hunter2", raising=False)
    with pytest.raises(SetupError, match="password_env is not set") as caught:
        site.secret(platform(password_env="hunter2"), tmp_path)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SetupError, match="cannot be read: No such file") as caught:
        site.secret(platform(password_file="hunter2"), tmp_path)
    assert "hunter2" not in str(caught.value)
    (tmp_path / "d").mkdir()
    with pytest.raises(SetupError, match="cannot be read: Is a directory"):
        site.secret(platform(password_file="d"), tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_secret_file_of_another_user_is_refused(tmp_path: Path):
    (tmp_path / "p").write_text("hunter2")
    (tmp_path / "p").chmod(0o600)
    shutil.chown(tmp_path / "p", 65534)
    with pytest.raises(SetupError, match="belongs to another user"):
        site.secret(platform(password_file="p"), tmp_path)


# --- properties

DEMO = (SHIPPED / "demo.yaml").read_bytes()
TOKENS = [b":", b": ", b"-", b"- ", b"{", b"}", b"[", b"]", b",", b"\n", b"\n  ", b"\t", b"#", b"*a", b"&a ", b"!t ",
          b"---\n", b"<<: ", b"'", b'"', b"|", b">", b"\x00", b"\xff", b"0", b"-1", b"1e999", b".nan", b"~", b"true",
          "：".encode(), "，".encode(), "“".encode(), "　".encode(), "石".encode(), "石".encode("gbk"), b"id",
          b"unknown", b"", b"9" * 400, b"bus-a", b"siren-1"]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = DEMO
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 20, 200])))
        data = data[:start] + draw(st.sampled_from(TOKENS)) + data[end:]
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutations())
def test_no_mutation_of_the_demo_breaks_the_checker(data: bytes, tmp_path: Path):
    """Whatever is in the file: sorted problems in the file's lines, or a configuration that loads."""
    file = tmp_path / "gateway.yaml"
    file.write_bytes(data)
    problems = site.check(file)
    assert problems == sorted(set(problems))
    lines = data.count(b"\n") + data.count(b"\r") + 2
    assert [p for p in problems if not (1 <= p.line <= lines and p.column >= 1 and p.message)] == []
    if not problems:
        assert isinstance(site.load(file), Config)


def leaves(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
    return [path, *(leaf for key, child in below for leaf in leaves(child, (*path, key)))]


WRONG: list[Any] = [None, True, -1, 0, 1e18, "", "x", "没有", "2026-02-30", [], [1], {}, {"x": 1}, ["a", {"b": []}]]
PLAIN = plain(DEMO)
LEAVES = leaves(PLAIN)


def test_any_value_in_any_place_is_judged_not_crashed_on(tmp_path: Path):
    """JSON is YAML: put wrong values of every kind into places all over the demo's tree, and leave places out."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    file = tmp_path / "gateway.yaml"
    for _ in range(150):
        tree = json.loads(json.dumps(PLAIN))
        for path in rng.sample(LEAVES[1:], rng.choice((1, 1, 2, 5))):
            node: Any = tree
            try:
                for step in path[:-1]:
                    node = node[step]
                if rng.random() < 0.3:
                    del node[path[-1]]
                else:
                    node[path[-1]] = rng.choice(WRONG)
            except (KeyError, IndexError, TypeError):
                continue   # an earlier change took the place away
        file.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
        if not site.check(file):
            assert isinstance(site.load(file), Config)


def test_a_valid_configuration_survives_a_round_trip(tmp_path: Path):
    for name in ("demo.yaml", "gateway.yaml"):
        first = site.load(SHIPPED / name)
        (tmp_path / name).write_bytes(msgspec.json.encode(first))
        assert site.load(tmp_path / name) == first
