"""What holds for every command: exit codes, help, errors in three parts, one JSON document."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from avpref import __version__
from avpref.cli import main as cli
from avpref.cli.commands import runs_commands as runs_module
from avpref.domain import SCHEMA_VERSION
from avpref.errors import StorageError

ROOT = Path(__file__).parents[2]
CLI = ROOT / "src" / "avpref" / "cli"
NOUNS = {
    "candidates": {"list", "show", "sample", "score"},
    "adapters": {"list", "export", "card"},
    "automations": {"apply"},
    "config": {"show", "validate"},
    "eval": {"run"},
    "gate": {"decide", "check", "promote", "approve", "reject", "rollback", "serving", "list", "history"},
    "lineage": {"show"},
    "pairs": {"select", "show", "diff", "leaderboard", "audit", "open", "export", "import"},
    "prompts": {"import", "cut", "fetch-film", "list"},
    "rewards": {"validate"},
    "runs": {"list", "show", "open", "logs", "resume", "reproduce", "gc"},
    "scorers": {"list", "check"},
    "scores": {"list", "show", "export"},
    "train": {"prior", "run", "sft"},
    "votes": {"plan", "list", "open", "result"},
    "weights": {"list", "fetch", "verify"},
}
COMMANDS = [(noun, verb) for noun, verbs in NOUNS.items() for verb in sorted(verbs)] + [("retrain",), ("doctor",)]
HEAVY = ("torch", "prefect", "ray", "duckdb", "pandas", "pyarrow", "numpy", "av", "yaml")


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "avpref.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_prints_json(call, command):
    answer = call(*command, "--help")
    assert answer.code == 0
    assert "--json" in answer.out
    assert answer.err == ""


def modules_after(*command_lines: tuple[str, ...]) -> set[str]:
    """The modules that one process has imported after it printed the help of every command line."""
    code = (
        "import json, sys, avpref.cli.main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: avpref.cli.main.main([*words, '--help'])\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "sys.stderr.write(json.dumps(list(sys.modules)))"
    )
    command = [sys.executable, "-c", code, json.dumps(command_lines)]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stderr))


def test_help_imports_nothing_heavy():
    nouns = [(noun,) for noun in NOUNS]
    assert modules_after((), *nouns, *COMMANDS) & set(HEAVY) == set()


def test_a_noun_is_imported_when_it_is_named():
    def commands(modules: set[str]) -> set[str]:
        return {name.rpartition(".")[2] for name in modules if name.startswith("avpref.cli.commands.")}

    always = commands(modules_after(()))
    assert always == {"retrain_commands", "doctor_commands"}
    assert commands(modules_after(("pairs", "show"))) - always == {"pairs_commands"}


def local_imports(path: Path) -> dict[str, list[str]]:
    """Modules imported inside the functions of a file, by function."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {
        function.name: [
            f"{node.module}.{node.names[0].name}" if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        for function in functions
    }


@pytest.mark.parametrize("path", sorted((CLI / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_a_command_imports_one_module_when_it_runs(path):
    for function, modules in local_imports(path).items():
        is_retrain = (path.stem, function) == ("retrain_commands", "retrain")  # a dry run, or the plan and then the run
        assert len(modules) <= (3 if is_retrain else 1), function


@pytest.mark.parametrize("folder", ["actions", "views", "doctor"])
def test_modules_that_do_the_work_import_at_their_top(folder):
    local = {
        (path.stem, function)
        for path in (CLI / folder).glob("*.py")
        for function, modules in local_imports(path).items()
        if modules
    }
    needed = {
        "views": {("run_state", "_finished_state"), ("config_validation", "validated")},
        "doctor": {("machine_checks", "disk"), ("machine_checks", "_prefect_url")},
    }
    assert local == needed.get(folder, set())


def test_without_a_command_there_is_help(call):
    answer = call()
    assert answer.code == 0
    assert all(noun in answer.out for noun in NOUNS)


def test_version(call):
    assert call("--version").out.strip() == __version__


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["pair", "show"], "pairs"),
        (["pairs", "sho"], "show"),
        (["pairs", "show", "--limt", "3"], "--limit"),
        (["runs", "lst"], "list"),
    ],
)
def test_a_misspelt_command_line_is_a_usage_error_with_a_suggestion(call, given, meant):
    answer = call(*given)
    assert answer.code == 2
    assert "Did you mean" in answer.err and meant in answer.err
    assert "--help" in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    "given",
    [
        ["pairs", "show", "--limit", "0"],
        ["pairs", "show", "--limit", "many"],
        ["pairs", "select", "--strategy", "best"],
        ["pairs", "diff", "a"],
        ["runs", "list", "extra"],
        ["scores", "export"],
    ],
    ids=" ".join,
)
def test_wrong_values_are_usage_errors(call, given):
    answer = call(*given)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("avpref: ")


def raising(error: BaseException):
    def work(path):
        raise error

    return work


def test_an_interrupt_ends_with_130(call, monkeypatch, tmp_path):
    monkeypatch.setattr("avpref.cli.views.run_state.rows_of", raising(KeyboardInterrupt()))
    answer = call("runs", "list", "--runs", tmp_path)
    assert answer.code == 130
    assert "interrupted" in answer.err


def test_an_unexpected_error_ends_with_1_and_points_to_debug(call, monkeypatch, tmp_path):
    monkeypatch.setattr("avpref.cli.views.run_state.rows_of", raising(RuntimeError("broken")))
    answer = call("runs", "list", "--runs", tmp_path)
    assert answer.code == 1
    assert "RuntimeError: broken" in answer.err and "--debug" in answer.err
    assert "Traceback" not in answer.err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(call, monkeypatch, tmp_path):
    monkeypatch.setattr("avpref.cli.views.run_state.rows_of", raising(StorageError("full", "space", "df -h")))
    answer = call("runs", "list", "--runs", tmp_path, "--debug")
    assert answer.code == StorageError.exit_code
    assert "Traceback" in answer.err
    assert answer.err.endswith("full\nexpected: space\nfix: df -h\n")


def test_errors_have_three_parts_and_leave_stdout_empty():
    found = process("runs", "show", "--runs", "no-such-folder", "--json")
    assert found.returncode == 4
    assert found.stdout == ""
    assert "expected:" in found.stderr and "fix:" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m avpref.cli.main config show --config configs/tiny.yaml --json | true"
    found = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert (found.returncode, found.stderr) == (0, "")


READING = [
    ["runs", "list"],
    ["runs", "show"],
    ["prompts", "list"],
    ["candidates", "list"],
    ["scores", "list"],
    ["pairs", "show"],
    ["pairs", "select"],
    ["pairs", "leaderboard"],
    ["gate", "check"],
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_commands_print_one_document(call, runs, command):
    answer = call(*command, "--runs", runs, "--json")
    assert answer.code in (0, 3)
    assert answer.document["schema_version"] == SCHEMA_VERSION
    assert "NaN" not in answer.out


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_commands_print_a_table_for_people(call, runs, command):
    answer = call(*command, "--runs", runs)
    assert answer.code in (0, 3)
    assert len(answer.out.splitlines()) > 1


def test_documents_of_a_process_are_pure_json(runs):
    found = process("runs", "list", "--runs", str(runs), "--json")
    assert found.returncode == 0
    (row,) = json.loads(found.stdout)["runs"]
    assert row["state"] == "finished"


def test_telemetry_is_off_unless_asked_for(call, monkeypatch):
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    call("--version")
    import os

    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_command_modules_are_registered():
    assert runs_module.app.name == ("runs",)
    for noun, verbs in NOUNS.items():
        assert {name for name in cli.app[noun] if not name.startswith("-")} == verbs
