"""What people read is true: commands, files, templates, fragments and event kinds in every README exist as shown."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gateway import site as site_file
from gateway.cli import cli
from gateway.config import Config
from gateway.uplink import hints

ROOT = Path(__file__).resolve().parent.parent
READMES = sorted(p for p in [*ROOT.glob("README*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
                 if not p.relative_to(ROOT).parts[0].startswith("."))
LONGEST = {"README.md": 165, "README.zh-CN.md": 150, "gateway/README.md": 150, "drivers/README.md": 110,
           "hil/README.md": 115}
FOLDER_LONGEST = 60
COMMANDS = typer.main.get_command(cli).commands
FAMILIES = ("alarm", "box", "clock", "journal", "object", "point", "uplink", "wire")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def calls(text: str) -> list[list[str]]:
    """Every `mingluo …` shown as code: its words behind the name, comments cut off."""
    spans = re.findall(r"`([^`\n]+)`", text)
    blocks = [line for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]
    indented = re.findall(r"^    (.*)$", text, re.M)
    shown = [m[1] for code in (*spans, *blocks, *indented)
             if (m := re.match(r"(?:sudo (?:-u \w+ )?)?(?:/opt/mingluo/bin/)?mingluo((?: +[^#]*)?)(?:#.*)?$", code))]
    return [words.split() for words in shown if words.split()]


def made(text: str) -> set[str]:
    """Every target of a `make …` shown as code."""
    return set(re.findall(r"(?:`|^    |; )make ([a-z]+)", text, re.M))


@pytest.mark.parametrize("path", READMES, ids=name)
def test_a_readme_stays_readable(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST.get(name(path), FOLDER_LONGEST)


@pytest.mark.parametrize("path", READMES, ids=name)
def test_every_shown_command_exists_with_its_options(path: Path) -> None:
    for words in calls(path.read_text(encoding="utf-8")):
        command = COMMANDS.get(words[0])
        assert command is not None, f"{name(path)} shows `mingluo {' '.join(words)}`"
        if (group := getattr(command, "commands", None)) is not None and words[1:]:
            assert words[1] in group, f"{name(path)} shows `mingluo {' '.join(words)}`"
            command = group[words[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert [w for w in words[1:] if w.startswith("--") and w.split("=")[0] not in known] == []


def test_the_reader_of_commands_reads_them() -> None:
    shown = {words[0] for path in READMES for words in calls(path.read_text(encoding="utf-8"))}
    assert shown >= {"check", "status", "ack", "silence", "clear", "confirm", "refuse", "service", "demo", "schema"}


@pytest.mark.parametrize("path", READMES, ids=name)
def test_every_shown_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert made(path.read_text(encoding="utf-8")) - targets == set()


def test_both_languages_show_the_same_make_targets_and_install_commands() -> None:
    texts = [(ROOT / f).read_text(encoding="utf-8") for f in ("README.md", "README.zh-CN.md")]
    assert made(texts[0]) == made(texts[1]) >= {"demo", "test", "check", "bench", "soak"}
    installs = [[line.split("#")[0].strip() for block in fences(text, "sh") for line in block.splitlines()]
                for text in texts]
    assert installs[0] == installs[1] != []


@pytest.mark.parametrize("path", READMES, ids=name)
def test_every_file_named_in_a_table_or_a_link_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [word for row in re.findall(r"^\| ([^|]+) \|", text, re.M)
             for word in re.findall(r"`([^`]+)`", row)
             if re.fullmatch(r"[\w./-]+(\.(py|yaml|c|conf|service|rules)|/)", word)]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = {word for word in (*named, *links) if not (path.parent / word).exists()}
    assert missing - kinds_in_code() == set()  # `object.service` is an event, not a unit


def test_the_shown_template_is_the_whole_shipped_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"The whole of `(config/sensors/[\w-]+\.yaml)`:\n\n```yaml\n(.*?)^```$", text, re.M | re.S)
    assert shown is not None
    assert shown[2].encode() == (ROOT / shown[1]).read_bytes()


def minimal() -> dict[str, Any]:
    return {"version": 1, "gateway": {"id": "box-1", "name": "测试站"},
            "wires": [{"id": "bus-a", "driver": "modbus", "port": "/dev/ttyUSB0",
                       "devices": [{"id": "rain", "template": "rain-tipping", "address": 2}]}],
            "objects": [{"id": "slope", "name": "后山", "hazard": "slope", "service": "commissioning",
                         "points": [{"id": "rain-1", "name": "雨量", "read": "rain.total", "poll_s": 10}]}]}


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "README.zh-CN.md"], ids=name)
def test_every_shown_fragment_is_accepted_by_the_real_loader(path: Path, tmp_path: Path) -> None:
    fragments = [yaml.safe_load(block) for block in fences(path.read_text(encoding="utf-8"), "yaml")]
    fragments = [f for f in fragments if "examples" not in f]
    assert fragments != []
    for fragment in fragments:
        site = minimal()
        if "devices" in fragment:
            site["wires"][0] |= fragment
        else:
            site |= fragment
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(site, allow_unicode=True), encoding="utf-8")
        assert site_file.check(file) == []


def test_the_shown_summary_has_the_lines_the_demo_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = next(block for block in fences(text, "") if block.startswith("broker"))
    strings = {n.value for n in ast.walk(ast.parse((ROOT / "hil/demo.py").read_text(encoding="utf-8")))
               if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    labels = [re.split(r"\s{2,}", line)[0] for line in shown.splitlines()]
    assert [label for label in labels if label not in strings] == []
    assert "lost                                    0" in shown


def test_every_room_of_the_gateway_has_its_row() -> None:
    text = (ROOT / "gateway/README.md").read_text(encoding="utf-8")
    boundaries = text.split("## Events")[0]
    named = set(re.findall(r"`([\w]+(?:\.py|/))`", boundaries))
    rooms = {p.name + "/" if p.is_dir() else p.name for p in (ROOT / "gateway").iterdir()
             if (p.suffix == ".py" and p.name != "__init__.py") or (p / "__init__.py").exists()}
    assert rooms - named == set()
    assert {n for n in named if not (ROOT / "gateway" / n).exists() and n != "pipeline.py"} == set()


def kinds_in_code() -> set[str]:
    """Every kind of event the gateway can say: whole strings, and those put together from a family and a word."""
    whole, heads, journal_words = set(), set(), set()
    for path in (ROOT / "gateway").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (path.parent.name == "journal" and isinstance(node, ast.Assign)
                    and ast.unparse(node.targets[0]) == "_WORDS"):
                journal_words |= set(ast.literal_eval(node.value))
            if isinstance(node, ast.JoinedStr) and isinstance(first := node.values[0], ast.Constant):
                if first.value in {f"{family}." for family in FAMILIES}:
                    heads.add(first.value)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (
                    re.fullmatch(rf"({'|'.join(FAMILIES)})\.[a-z_]+", node.value) or node.value == "anomaly"):
                whole.add(node.value)
    # A further family put together at run time needs its words here.
    assert heads == {"journal.", "uplink."}
    assert journal_words
    collisions = {hints.FLAPPING.kind, hints.of_code(0x8E, "").kind}
    return (whole | {f"journal.{word}" for word in journal_words} | {f"uplink.{kind}" for kind in collisions}) - {
        "journal.sqlite"}


def test_the_events_listed_are_the_events_in_the_code() -> None:
    text = (ROOT / "gateway/README.md").read_text(encoding="utf-8").split("## Events")[1].split("## Decisions")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    listed = [kind for row in rows for kind in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(listed) == sorted(kinds_in_code())
    for shown, zh, en in rows:
        assert re.search(r"[一-鿿]", zh), shown
        assert en.strip(), shown


def test_every_key_of_a_site_has_its_line() -> None:
    text = (ROOT / "config/README.md").read_text(encoding="utf-8").split("## The keys")[1]
    listed = re.findall(r"^\| `(\w+)` \| \S", text, re.M)
    assert listed == list(Config.__struct_fields__)


def test_every_fault_of_a_slave_is_named() -> None:
    from hil.slaves import FAULTS

    row = next(line for line in (ROOT / "hil/README.md").read_text(encoding="utf-8").splitlines()
               if line.startswith("| `slaves[…].fault"))
    named = set(re.findall(r"`(\w+)`", row.split("|")[2].split(";")[0]))
    assert named == set(FAULTS) - {""}
