"""Aliases: who may serve, that exactly one of two movers wins, and that what was changed is never served."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from avpref.errors import AliasConflict, AvprefError, ConfigError, GateRefused, InputError, TableError
from avpref.registry import aliases, decisions, promotion
from avpref.registry.aliases import Action
from avpref.registry.decision_record import DecisionRecord
from avpref.registry.promotion import State
from avpref.storage.run_folder import RunFolder

Decided = Callable[..., RunFolder]
APPROVAL = ["promotion.approval=required"]


def serves(runs: Path, alias: str = "serving") -> str:
    return promotion.serving(runs, alias).run_id


def move_files(runs: Path, alias: str = "serving") -> list[Path]:
    return sorted((runs / "registry" / "aliases" / alias).iterdir())


def test_a_promotion_says_who_serves_from_which_run_and_decision(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "one")
    move = promotion.promote(tmp_path, "one", by="ada", reason="better")
    assert (move.number, move.action, move.by, move.reason) == (1, Action.PROMOTE, "ada", "better")
    assert move.run_id == run.run_id and move.decision == decisions.read_decision(run).decision_id
    assert not move.is_override and move.previous == ""
    found = promotion.serving(tmp_path)
    assert Path(found.adapter_path, "adapter_model.safetensors").read_bytes() == b"adapter of one"
    assert Path(found.checkpoint_path).read_bytes() == b"checkpoint of all"
    assert found.move == move == aliases.current(tmp_path)
    record = aliases.registered_adapter(tmp_path, move.adapter)
    assert record.policy_hash == found.policy_hash == "policy of one"
    assert record.lineage and record.evaluation and record.rules


def test_promoting_what_serves_writes_nothing(decided_run: Decided, tmp_path: Path) -> None:
    decided_run(tmp_path, "one")
    first = promotion.promote(tmp_path, "one")
    assert promotion.promote(tmp_path, "one", reason="again") == first
    assert len(move_files(tmp_path)) == 1


def test_a_refused_run_is_not_promoted_unless_somebody_says_why(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "worse", gain=-1.0)
    with pytest.raises(GateRefused) as caught:
        promotion.promote(tmp_path, "worse")
    assert (caught.value.exit_code == 3 and "sync" in str(caught.value)) or "av" in str(caught.value)
    with pytest.raises(GateRefused):
        promotion.approve(tmp_path, "worse", by="ada")
    with pytest.raises(ConfigError, match="without a reason"):
        promotion.promote(tmp_path, "worse", override=True, reason=" ")
    assert aliases.names(tmp_path) == [] and promotion.state(run) is State.REFUSED
    move = promotion.promote(tmp_path, "worse", by="ada", reason="a demonstration", override=True)
    assert move.is_override and (move.by, move.reason) == ("ada", "a demonstration")


def test_an_override_that_was_not_needed_is_not_recorded_as_one(decided_run: Decided, tmp_path: Path) -> None:
    decided_run(tmp_path, "one")
    assert not promotion.promote(tmp_path, "one", override=True, reason="to be sure").is_override


def test_rollbacks_go_back_one_by_one_and_a_later_promotion_starts_from_there(
    decided_run: Decided, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        decided_run(tmp_path, name)
        promotion.promote(tmp_path, name)
    assert promotion.rollback(tmp_path, reason="hums").action is Action.ROLLBACK
    assert serves(tmp_path).startswith("two-")
    promotion.rollback(tmp_path)
    assert serves(tmp_path).startswith("one-")
    with pytest.raises(InputError, match="nothing served"):
        promotion.rollback(tmp_path)
    promotion.promote(tmp_path, "three")
    promotion.rollback(tmp_path)
    assert serves(tmp_path).startswith("one-")
    moves = aliases.history(tmp_path)
    assert [move.number for move in moves] == list(range(1, 8))
    assert all(after.previous == before.adapter for before, after in pairwise(moves))


def test_a_rollback_can_name_what_served_and_nothing_else(decided_run: Decided, tmp_path: Path) -> None:
    moves = {}
    for name in ("one", "two", "three"):
        decided_run(tmp_path, name)
        moves[name] = promotion.promote(tmp_path, name)
    decided_run(tmp_path, "never")
    back = promotion.rollback(tmp_path, to=moves["one"].adapter[:8])
    assert back.run_id == moves["one"].run_id and back.decision == moves["one"].decision
    with pytest.raises(InputError, match="0 adapters"):
        promotion.rollback(tmp_path, to="a0000000000000000")
    with pytest.raises(InputError, match="nothing serves"):
        promotion.rollback(tmp_path, alias="canary")


def test_of_two_promotions_at_once_exactly_one_wins_and_the_other_is_told(
    decided_run: Decided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every thread has seen the same state of the alias before any of them writes."""
    names = ["one", "two", "three", "four"]
    for name in ("zero", *names):
        decided_run(tmp_path, name)
    promotion.promote(tmp_path, "zero")
    barrier, verify = threading.Barrier(len(names)), promotion._verify

    def verify_and_wait(folder: RunFolder, record: DecisionRecord) -> None:
        verify(folder, record)
        barrier.wait(30)

    monkeypatch.setattr(promotion, "_verify", verify_and_wait)
    won: list[aliases.AliasMove] = []
    lost: list[AvprefError] = []

    def promote(name: str) -> None:
        try:
            won.append(promotion.promote(tmp_path, name, by=name))
        except AliasConflict as error:
            lost.append(error)

    threads = [threading.Thread(target=promote, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == len(names) - 1
    assert all(won[0].by in str(error) and won[0].adapter in str(error) for error in lost)
    assert aliases.current(tmp_path) == won[0]
    assert [path.name for path in move_files(tmp_path)] == ["000001.json", "000002.json"]


def test_a_crash_between_record_and_alias_leaves_the_old_one_and_the_same_command_finishes(
    decided_run: Decided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        decided_run(tmp_path, name)
    promotion.promote(tmp_path, "one")

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aliases, "append", die)
        with pytest.raises(KeyboardInterrupt):
            promotion.promote(tmp_path, "two")
    assert serves(tmp_path).startswith("one-")
    assert len(list((tmp_path / "registry" / "adapters").iterdir())) == 2
    promotion.promote(tmp_path, "two")
    assert serves(tmp_path).startswith("two-")
    assert len(list((tmp_path / "registry" / "adapters").iterdir())) == 2


@pytest.mark.parametrize("role", [decisions.ADAPTER, decisions.CHECKPOINT])
@pytest.mark.parametrize("is_gone", [True, False])
def test_changed_or_missing_files_are_never_promoted_rolled_back_to_or_served(
    decided_run: Decided, tmp_path: Path, role: str, is_gone: bool
) -> None:
    run = decided_run(tmp_path, "one")
    (file,) = (file for file in decisions.read_decision(run).files if file.role == role)
    path, data = tmp_path / file.path, (tmp_path / file.path).read_bytes()

    def break_it() -> None:
        path.unlink() if is_gone else path.write_bytes(data + b"!")

    break_it()
    with pytest.raises(TableError) as caught:
        promotion.promote(tmp_path, "one")
    assert file.path in str(caught.value) and file.sha256 in str(caught.value)
    with pytest.raises(TableError):
        promotion.promote(tmp_path, "one", override=True, reason="no matter what")
    assert aliases.names(tmp_path) == []
    path.write_bytes(data)
    promotion.promote(tmp_path, "one")
    decided_run(tmp_path, "two")
    promotion.promote(tmp_path, "two")
    break_it()
    with pytest.raises(TableError):
        promotion.rollback(tmp_path)
    assert serves(tmp_path).startswith("two-")
    path.write_bytes(data)
    promotion.rollback(tmp_path)
    break_it()
    with pytest.raises(TableError):
        promotion.serving(tmp_path)


@pytest.mark.parametrize("forge", ["verdict", "numbers", "bound", "hash", "meaningless", "files"])
def test_a_decision_that_was_edited_is_not_believed(decided_run: Decided, tmp_path: Path, forge: str) -> None:
    """The stored document says yes where the stored scores say no, or speaks of another network."""
    run = decided_run(tmp_path, "one", gain=-1.0 if forge in ("verdict", "bound") else 2.0)
    (path,) = (run.root / "decisions").iterdir()
    document = json.loads(path.read_text())
    match forge:
        case "verdict":
            document["verdict"] = "promote"
        case "numbers":
            document["evaluation"]["audio"]["delta_sd"] += 0.5
        case "bound":
            document["verdict"] = "promote"
            document["inputs"]["settings"]["gate"] |= {
                "min_audio_delta_sd": -9.0,
                "min_av_ci_low_sd": -9.0,
                "min_video_ci_low_sd": -9.0,
            }
        case "hash":
            document["inputs"]["policy_hash"] = "policy of somebody else"
        case "meaningless":
            document["inputs"]["meaningless"] = ["toy"]
        case "files":
            other = run.root / "models" / "other.safetensors"
            other.write_bytes(b"something else")
            from avpref.identity import file_sha256

            document["files"][1] |= {"path": f"{run.run_id}/models/other.safetensors", "sha256": file_sha256(other)}
    path.write_text(json.dumps(document))
    assert not decisions.replay_decision(run).agrees
    with pytest.raises(TableError):
        promotion.promote(tmp_path, "one")
    assert aliases.names(tmp_path) == []


def test_a_decision_is_read_and_written_with_the_same_bytes(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "one")
    (path,) = (run.root / "decisions").iterdir()
    record = decisions.read_decision(run)
    assert json.dumps(record.document(), indent=1, ensure_ascii=False) == path.read_text()
    adapter = aliases.register_adapter(tmp_path, record)
    stored = (tmp_path / "registry" / "adapters" / f"{adapter}.json").read_bytes()
    assert stored == json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True).encode()
    assert aliases.registered_adapter(tmp_path, adapter) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("verdict"), "no key 'verdict'"),
        (lambda document: document.update(verdicts="promote"), "unknown key 'verdicts'"),
        (lambda document: document["inputs"].pop("policy_hash"), "no 'policy_hash' in 'inputs'"),
        (lambda document: document["files"][0].pop("sha256"), "sha256"),
    ],
)
def test_a_wrong_or_missing_key_of_a_decision_names_the_file(
    decided_run: Decided, tmp_path: Path, change: Callable[[dict[str, dict]], object], message: str
) -> None:
    run = decided_run(tmp_path, "one")
    (path,) = (run.root / "decisions").iterdir()
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=message) as caught:
        promotion.promote(tmp_path, "one")
    assert str(path) in caught.value.found and caught.value.expected and caught.value.fix


def test_scores_that_were_changed_are_named(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "one")
    path = next((run.root / "tables" / "evaluations").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(TableError, match=path.name):
        promotion.promote(tmp_path, "one")


def test_a_chain_of_moves_that_was_edited_is_found_out(decided_run: Decided, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        decided_run(tmp_path, name)
        promotion.promote(tmp_path, name)
    first, second, _ = move_files(tmp_path)
    data = first.read_text()
    first.write_text(data.replace('"by": "', '"by": "x'))
    with pytest.raises(TableError, match="does not follow"):
        aliases.current(tmp_path)
    first.write_text(data)
    second.unlink()
    with pytest.raises(TableError, match="lacks 000002"):
        aliases.history(tmp_path)


def test_a_half_written_move_is_invisible(decided_run: Decided, tmp_path: Path) -> None:
    decided_run(tmp_path, "one")
    move = promotion.promote(tmp_path, "one")
    (tmp_path / "registry" / "aliases" / "serving" / ".partial-host-1-1-000002.json").write_text('{"number": 2')
    assert aliases.current(tmp_path) == move
    decided_run(tmp_path, "two")
    assert promotion.promote(tmp_path, "two").number == 2


def test_where_approval_is_required_nothing_moves_before_it(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "one", given=[*APPROVAL, "promotion.automatic=true"])
    assert promotion.promote_automatically(run) is State.AWAITING
    with pytest.raises(GateRefused, match="awaiting approval"):
        promotion.promote(tmp_path, "one")
    assert aliases.names(tmp_path) == []
    with pytest.raises(ConfigError):
        promotion.approve(tmp_path, "one", by=" ")
    move = promotion.approve(tmp_path, "one", by="grace", reason="listened to it")
    assert (move.action, move.by, move.reason) == (Action.APPROVE, "grace", "listened to it")
    assert promotion.state(run) is State.SERVES
    assert promotion.approve(tmp_path, "one", by="grace") == move
    with pytest.raises(InputError, match="grace approved"):
        promotion.reject(tmp_path, "one", by="ada", reason="late")


def test_a_crash_between_approval_and_move_is_finished_by_the_same_command_or_the_next_run(
    decided_run: Decided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = decided_run(tmp_path, "one", given=APPROVAL)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aliases, "append", die)
        with pytest.raises(KeyboardInterrupt):
            promotion.approve(tmp_path, "one", by="grace")
    assert promotion.state(run) is State.ALLOWED and aliases.current(tmp_path) is None
    promotion.approve(tmp_path, "one", by="grace")
    assert promotion.state(run) is State.SERVES


def test_what_was_rejected_stays_rejected(decided_run: Decided, tmp_path: Path) -> None:
    run = decided_run(tmp_path, "one", given=[*APPROVAL, "promotion.automatic=true"])
    word = promotion.reject(tmp_path, "one", by="ada", reason="it hums")
    assert not word.is_granted and promotion.state(run) is State.REJECTED
    for attempt in (lambda: promotion.approve(tmp_path, "one", by="bob"), lambda: promotion.promote(tmp_path, "one")):
        with pytest.raises(GateRefused, match="ada rejected"):
            attempt()
    assert promotion.promote_automatically(run) is State.REJECTED
    assert aliases.names(tmp_path) == []


def test_automatic_promotion_happens_once_and_respects_a_rollback(decided_run: Decided, tmp_path: Path) -> None:
    given = ["promotion.automatic=true", "promotion.alias=canary"]
    runs = [decided_run(tmp_path, name, given=given) for name in ("one", "two")]
    assert [promotion.promote_automatically(run) for run in runs] == [State.SERVES, State.SERVES]
    assert serves(tmp_path, "canary").startswith("two-")
    assert [promotion.promote_automatically(run) for run in runs] == [State.SERVED, State.SERVES]
    promotion.rollback(tmp_path, "canary")
    assert [promotion.promote_automatically(run) for run in runs] == [State.SERVES, State.SERVED]
    assert serves(tmp_path, "canary").startswith("one-")
    assert aliases.names(tmp_path) == ["canary"]


def test_without_being_asked_nothing_is_promoted(decided_run: Decided, tmp_path: Path) -> None:
    assert promotion.promote_automatically(decided_run(tmp_path, "one")) is State.ALLOWED
    refused = decided_run(tmp_path, "worse", gain=-1.0, given=["promotion.automatic=true"])
    assert promotion.promote_automatically(refused) is State.REFUSED
    assert aliases.names(tmp_path) == []


@pytest.mark.parametrize("alias", ["../elsewhere", "", "Serving", "a/b", ".hidden"])
def test_an_alias_is_a_plain_name(alias: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        aliases.history(tmp_path, alias)


def test_aliases_move_independently_and_do_not_depend_on_where_the_runs_lie(
    decided_run: Decided, tmp_path: Path
) -> None:
    for name, alias in (("one", "serving"), ("two", "canary")):
        decided_run(tmp_path / "runs", name)
        promotion.promote(tmp_path / "runs", name, alias)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert serves(tmp_path / "moved").startswith("one-")
    assert serves(tmp_path / "moved", "canary").startswith("two-")


def test_a_replay_names_inputs_that_are_others_today_and_still_agrees(decided_run: Decided, tmp_path: Path) -> None:
    from avpref.config.loading import config_to_yaml
    from avpref.datasets import tables

    run = decided_run(tmp_path, "one")
    assert decisions.replay_decision(run).changed == ()
    rows = run.tables.read(tables.EVALUATIONS).slice(0, 14)
    run.tables.seal(tables.EVALUATIONS, "fewer", rows)
    (run.root / "config.yaml").write_text(
        config_to_yaml(
            run.settings.model_copy(
                update={"evaluation": run.settings.evaluation.model_copy(update={"confidence": 0.9})}
            )
        )
    )
    from avpref.storage.run_folder import open_run

    found = decisions.replay_decision(open_run(tmp_path, "one"))
    assert found.agrees
    assert {each.what for each in found.changed} == {"evaluations", "evaluation.confidence"}
