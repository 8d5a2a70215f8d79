"""The JSON Schema of the production file against the golden files of the parser's own tests: it accepts what is good,
and refuses every bad file that says `# schema: rejects`. Both say the same of what works and of what is only planned."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "production"
SCHEMA = json.loads((ROOT / "schemas" / "production.schema.json").read_text(encoding="utf-8"))
GOOD = sorted(DATA.glob("good/*.yaml")) + [ROOT / "compose" / "production.yaml"]
GOOD += sorted((ROOT / "compose" / "examples").glob("*.yaml"))
BAD = sorted(DATA.glob("bad/*.yaml"))
MARK = "# schema: rejects"


class Loader(yaml.SafeLoader):
    """YAML 1.2's core types, as editors and the program read them: no `yes`, no octal, no dates."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+", "-0123456789"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


def read(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def marked():
    return [path for path in BAD if MARK in path.read_bytes().decode("utf-8", "replace")]


def errors(document):
    return list(jsonschema.Draft7Validator(SCHEMA).iter_errors(document))


def test_schema_is_valid():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_there_is_something_to_check():
    print(len(GOOD), "good,", len(marked()), "of", len(BAD), "bad")
    assert len(GOOD) >= 9
    assert len(marked()) >= 15


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_accepts(path):
    found = errors(read(path))
    assert not found, "\n".join(f"{list(e.absolute_path)}: {e.message}" for e in found)


@pytest.mark.parametrize("path", marked(), ids=lambda path: path.name)
def test_rejects(path):
    assert errors(read(path))


def test_describes_the_whole_contract():
    """What is refused only as not yet supported has the right shape."""
    assert not errors(read(DATA / "bad" / "not-yet-supported.yaml"))
    assert not errors(read(DATA / "bad" / "not-loopback.yaml"))


ITEM = {"id": "A", "class": "Echo"}


def with_item(**keys):
    return {"items": [{**ITEM, **keys}]}


@pytest.mark.parametrize(
    "document",
    [
        with_item(concurency=8),
        with_item(concurrency=0),
        with_item(concurrency="8"),
        with_item(concurrency=2.5),
        with_item(queue_type="fofi"),
        with_item(enabled="yes"),
        with_item(timeout="30s"),
        with_item(retry={"max_attempt": 5}),
        with_item(persistence=None),
        with_item(priority={"path": "PV1-2"}),
        with_item(priority={"values": {"E": 9}}),
        with_item(priority={"path": "PV1-2", "values": {"E": 10}}),
        with_item(priority={"path": "PV1-2", "values": {}}),
        with_item(priority={"path": "PV1[*]-2", "values": {"E": 9}}),
        with_item(priority={"default": -1}),
        with_item(priority={"ageing": 86400001}),
        with_item(idempotency_window=86400001),
        with_item(ordering_key="PID-3[*]"),
        with_item(blocking={"enabled": "on"}),
        with_item(timeout=31536000000),
        with_item(settings={"dealy": 5}),
        with_item(id="a b"),
        {"items": [{"id": "A"}]},
        {"items": [{"class": "Echo"}]},
        {"items": [{"id": "A", "class": "Ecko"}]},
        {"items": [{"id": "A", "class": "HTTPSender"}]},
        {"items": [{"id": "A", "class": "HTTPSender", "settings": {"url": "ftp://x"}}]},
        {"items": [{"id": "A", "class": "HTTPSender", "settings": {"url": "http://x", "retry_on": [200]}}]},
        {"items": [{"id": "A", "class": "FileWriter", "settings": {}}]},
        {"items": [{"id": "A", "class": "HL7RoutingEngine", "settings": {"rules": []}}]},
        {"items": [{"id": "A", "class": "HL7RoutingEngine", "settings": {"default": []}}]},
        {"items": [{"id": "A", "class": "HL7RoutingEngine", "settings": {"rules": [{"when": {"MSH": "x"}, "to": "B"}]}}]},
        {"items": [{"id": "A", "class": "HL7RoutingEngine", "settings": {"rules": [{"when": {}}]}}]},
        {"items": []},
        {},
        {"items": [ITEM], "dispatcher": {"http": {"listen": "localhost:80"}}},
        {"items": [ITEM], "dispatcher": {"mllp": {"listen": "127.0.0.1:1", "item": "A"}}},
        {"items": [ITEM], "dispatcher": {"mllp": [{"listen": "127.0.0.1:1"}]}},
        {"items": [ITEM], "redis": {"key_prefix": "{x}"}},
    ],
    ids=lambda document: json.dumps(document)[:90],
)
def test_refuses_one_thing(document):
    """Each differs from a good file by one thing, so that no other error hides it."""
    assert not errors({"items": [ITEM]})
    assert errors(document)


@pytest.mark.parametrize("key", ["concurrency", "enabled", "queue_type", "timeout", "id", "class", "batch_size"])
def test_takes_variables(key):
    assert not errors({"items": [{**ITEM, key: "${SOME_NAME}"}]})
    assert not errors({"items": [{**ITEM, key: "${SOME_NAME:-1}"}]})
