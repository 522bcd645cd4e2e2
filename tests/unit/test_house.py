"""The rules of the house that no other tool watches. A list of exceptions is part of its rule: each has a reason."""

import ast
import functools
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from documents import ROOT, Block, blocks, write_files

from connectors.failpoints import TRANSITIONS
from crossdock.cli import app
from crossdock.configuration.load import load
from crossdock.configuration.yaml import read

PACKAGES = ("schemas", "connectors", "streams", "crossdock")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FORBIDDEN_NAMES = re.compile(r"Manager|Helper|Util|Impl$|^_?Base[A-Z]|Base$")
CLOCKS = {
    "time": {"time", "time_ns", "sleep", "monotonic", "monotonic_ns", "perf_counter"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
OWN_TIME = {
    "connectors/clock.py": "the clock itself",
    "connectors/failpoints.py": "a test's sleep must not depend on the clock that is tested",
}
LONGEST_MODULE, LONGEST_FUNCTION = 400, 50
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS = {
    "crossdock/demo/questions.py delay_risk": "a table of features, read from top to bottom",
    "crossdock/demo/questions.py inspection_priority": "a table of features, read from top to bottom",
}
DATA_PATH = ("streams/", "connectors/sql/sink", "connectors/soap/sink", "connectors/rest/sink")
CHANGES_OF_STATE = re.compile(
    r"\.(begin_transaction|commit_transaction|send_batch|publish|acknowledge|seek_to_committed)$"  # with Kafka
    r"|(consumer|connection)\.commit$|\btask\.(open|ack)$|sink\.(put|once)$|calls\.write$"  # and with a system
)
WITHOUT_FAILPOINT = {
    "streams/commits.py _write": "a mirror is no step of a record's way",
    "streams/control.py put": "a record of control is no step of a record's way",
    "streams/control.py take_back": "a record of control is no step of a record's way",
    "streams/delivery.py call": "its caller passes before and after it",
    "streams/delivery.py put": "hands on to the sink",
    "streams/runtime/publisher.py send": "its callers pass before and after it",
    "streams/runtime/reader.py _begin": "its caller passes after it",
    "streams/worker.py _enriching": "holds `work`",
    "streams/worker.py _writing": "holds `work`",
    "streams/worker.py work": "enrich and write-back pass before it, the lane after it",
}
COMMANDS_ON_THEIR_WAY: set[str] = {"crossdock offsets"}
OTHER_COMMANDS = {"pip", "pre-commit", "git", "rm", "docker"}
EVENT = re.compile(r"([a-z]+\.[a-z]+(?:_[a-z]+)*)(?: [a-z]+=.*)?", re.DOTALL)
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the four packages, by its path."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in found}


def nodes(kind: Any) -> Iterator[tuple[str, Any]]:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield path, node


def invariants(text: str) -> set[str]:
    return set(re.findall(r"\bI\d+\b", text))


def promises() -> list[tuple[str, list[str]]]:
    """The rows of docs/guarantees.md: the promise, and the tests that it names."""
    rows = re.findall(r"^\| (?!promise|-)(.+?) \| (.+?) \|$", (ROOT / "docs/guarantees.md").read_text(), re.MULTILINE)
    return [(promise, re.findall(r"`(tests/[^`]+)`", tests)) for promise, tests in rows]


def test_guarantees_name_only_tests_that_exist() -> None:
    assert promises()
    for promise, tests in promises():
        assert tests, f"no test for: {promise}"
        for each in tests:
            path, _, name = each.partition("::")
            assert (ROOT / path).is_file(), each
            assert not name or f"def {name}(" in (ROOT / path).read_text(), each


def test_each_invariant_of_the_guarantees_is_named_by_a_test() -> None:
    for promise, tests in promises():
        named = set().union(*(invariants((ROOT / each.partition("::")[0]).read_text()) for each in tests))
        assert invariants(promise) <= named, promise


def test_no_test_names_an_invariant_that_is_not_promised() -> None:
    promised = set().union(*(invariants(promise) for promise, _ in promises()))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.name != Path(__file__).name:
            assert invariants(path.read_text()) <= promised, path


def test_no_class_has_a_name_that_says_nothing() -> None:
    assert [f"{path} {node.name}" for path, node in nodes(ast.ClassDef) if FORBIDDEN_NAMES.search(node.name)] == []


def test_time_comes_only_from_the_clock() -> None:
    found = [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, node in nodes((ast.Attribute, ast.ImportFrom))
        if path not in OWN_TIME and asks_the_machine(node)
    ]
    assert found == []


def asks_the_machine(node: ast.Attribute | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(each.name in CLOCKS["time"] for each in node.names)
    owner = ast.unparse(node.value).rpartition(".")[2]
    return node.attr in CLOCKS.get(owner, ())


def test_modules_and_functions_are_short() -> None:
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {path for path, count in lines.items() if count > LONGEST_MODULE} == set(LONG_MODULES)
    long = {
        f"{path} {node.name}"
        for path, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef))
        if node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == set(LONG_FUNCTIONS)


def failpoints_in(tree: ast.AST) -> list[str]:
    """The names of the failpoints that a piece of code passes."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoint":
            argument = node.args[0]
            several = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
            names += [ast.literal_eval(each) for each in several]
    return names


def test_each_transition_has_a_failpoint_at_one_place() -> None:
    found = Counter(name for tree in modules().values() for name in failpoints_in(tree))
    assert sorted(found.elements()) == sorted(TRANSITIONS)


def test_what_changes_the_state_of_a_record_passes_a_failpoint() -> None:
    """Sending, committing, acknowledging and writing: each stands in a function that a test can make fail."""
    bare = []
    for path, tree in modules().items():
        if path.startswith(DATA_PATH):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and changes_state(node):
                    bare += [] if failpoints_in(node) else [f"{path} {node.name}"]
    assert set(bare) == set(WITHOUT_FAILPOINT)


def changes_state(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    named = (ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Attribute))
    return any(CHANGES_OF_STATE.search(name) for name in named)


def test_tracked_files_hold_no_secret_and_no_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    wrong = re.compile(
        r"(?<![\w./-])/(?:work|root|tmp/w|home/\w+)(?![\w-])"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bxox[abp]-\w{10,}"
    )
    found = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path == Path(__file__):
            continue
        raw = path.read_bytes()
        if b"\0" not in raw[:8000]:
            text = raw.decode("utf-8", "replace")
            found += [f"{name}: {match[0]}" for match in wrong.finditer(text)]
    assert found == []


def commands_of(block: Block) -> list[str]:
    """The commands of a block, without prompts and comments."""
    lines = [line.removeprefix("$ ").partition(" #")[0].strip() for line in block.text.splitlines()]
    return [part.strip() for line in lines if not line.startswith("#") for part in line.split("&&") if part.strip()]


def commands_in_words(page: Path) -> list[str]:
    """What stands between backticks anywhere in a page and begins like a command."""
    text = page.read_text(encoding="utf-8")
    return [" ".join(each.split()) for each in re.findall(r"`((?:crossdock|make) [a-z-][^`]*)`", text)]


@functools.cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def problem_of(command: str) -> str | None:
    """Why this command does not exist here; None = it does."""
    program, *words = shlex.split(command)
    if program == "make":
        return next((f"no target {word!r}" for word in words if "=" not in word and word not in targets()), None)
    if program != "crossdock":
        return None if program in OTHER_COMMANDS else f"unknown program {program!r}"
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands"):
        if not words or words[0] not in found.commands:
            return f"no command {' '.join(words[:1])!r} of {found.name or 'crossdock'}"
        found = found.commands[words.pop(0)]
    options = {option for each in found.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    return next((f"no option {word!r}" for word in words if word.startswith("--") and word not in options), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_commands_that_exist(page: Path) -> None:
    in_blocks = [each for block in blocks(page) if block.language in ("console", "bash") for each in commands_of(block)]
    for command in [*in_blocks, *commands_in_words(page)]:
        assert problem_of(command) is None, f"{command}: {problem_of(command)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "|".join((*PACKAGES, "tests", "docs", "docker", "config", "benchmarks"))
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
    linked = [str(page.parent.relative_to(ROOT) / each) for each in re.findall(r"\]\((?!\w+:)([^)#]+)\)", text)]
    assert [each for each in [*named, *linked] if not (ROOT / each).exists()] == []


def test_a_wrong_command_is_noticed() -> None:
    assert problem_of("make tset") == "no target 'tset'"
    assert problem_of("crossdock dead lst x") == "no command 'lst' of dead"
    assert problem_of("crossdock lint x --jsn") == "no option '--jsn'"
    assert problem_of("crossdock broker start --port 9092") is None


def test_a_message_names_only_commands_that_exist() -> None:
    texts = [(path, node.value) for path, node in nodes(ast.Constant) if isinstance(node.value, str)]
    named = [(path, each) for path, text in texts for each in re.findall(r"`(crossdock [a-z]+(?: [a-z]+\b)?)", text)]
    assert named
    for path, command in named:
        shortest = " ".join(command.split()[:2])
        if shortest not in COMMANDS_ON_THEIR_WAY:
            assert problem_of(command) is None, f"{path}: {command}"


def test_a_block_of_the_first_page_says_what_it_is() -> None:
    for page in PAGES[:2]:
        assert [block for block in blocks(page) if not block.language] == [], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_of_a_page_is_what_our_loader_takes(page: Path, tmp_path: Path, jsonl_connector: Path) -> None:
    found = [block for block in blocks(page) if block.language == "yaml"]
    for block in found:
        single = tmp_path / "block.yaml"
        single.write_text(block.text)
        assert read(single).data is not None, f"{block.page}:{block.line}"
    files = [block for block in found if block.file is not None]
    if files:
        (tmp_path / "crossdock.yaml").write_text("kafka: {bootstrap: 127.0.0.1:9092, insecure: true}\n")
        write_files(files, tmp_path)
        loaded = load(tmp_path, {})
        assert len(loaded.systems) + len(loaded.pipelines) == len(files)


def test_the_files_of_the_compose_hub_are_clean() -> None:
    assert set(load(ROOT / "docker" / "hub", {}).pipelines) == {"delay-risk"}


def test_every_log_event_is_in_the_runbook() -> None:
    events = set()
    for _, node in nodes(ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS and "log" in ast.unparse(node.func.value):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            events |= {match[1] for text in texts if (match := EVENT.match(text))}
    runbook = (ROOT / "docs/runbook.md").read_text()
    assert len(events) > 10
    assert sorted(event for event in events if f"| `{event}` |" not in runbook) == []
