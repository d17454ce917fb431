"""Capsules: the schema, atomic writing, and what must not be in them."""

import json
import os
import statistics
from pathlib import Path

import jsonschema
import pytest
from zmlx import capsule as capsules

REPOSITORY = Path(__file__).resolve().parents[2]


def check_schema(capsule):
    """Raises if a capsule does not obey the schema."""
    jsonschema.Draft202012Validator(capsules.load_schema()).validate(capsule)


def make_example():
    return capsules.make_capsule(
        "moe_layer",
        "an example",
        parameters={"tokens": (1, 4), "path": Path("/somewhere/else/model")},
        measurements=[capsules.measurement("layer", "stock", "s", [0.3, 0.1, 0.2], {"tokens": 1})],
        results={"ratio": float("nan")},
        passed=True,
        command=["/usr/bin/zmlx", "bench", "--capsule=/home/someone/out", "--runs", "3"],
    )


def test_the_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(capsules.load_schema())


def test_a_capsule_obeys_the_schema():
    capsule = make_example()
    check_schema(capsule)
    assert capsule["label"] == "an-example"
    assert capsule["machine"]["cores"] >= 1
    assert capsule["mlx"]["version"]
    assert capsule["zmlx"]["compiler"]


def test_raw_runs_are_kept_in_order_with_their_median():
    runs = [0.3, 0.1, 0.2, 0.9]
    entry = capsules.measurement("layer", "stock", "s", runs)
    assert entry["runs"] == runs
    assert entry["median"] == statistics.median(runs)
    with pytest.raises(ValueError, match="no runs"):
        capsules.measurement("layer", "stock", "s", [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("machine"),
        lambda c: c["zmlx"].pop("git_commit"),
        lambda c: c["machine"].pop("last_level_cache_bytes"),
        lambda c: c["measurements"].clear(),
        lambda c: c["measurements"][0]["runs"].clear(),
        lambda c: c["measurements"][0]["runs"].append("fast"),
        lambda c: c["measurements"][0].update(unit="furlongs"),
        lambda c: c.update(created="yesterday"),
        lambda c: c.update(capsule_version=2),
        lambda c: c.update(extra=1),
    ],
)
def test_the_schema_refuses_what_is_incomplete_or_wrong(damage):
    capsule = make_example()
    damage(capsule)
    with pytest.raises(jsonschema.ValidationError):
        check_schema(capsule)


def test_a_written_capsule_reads_back(tmp_path):
    capsule = make_example()
    path = capsules.write_capsule(capsule, tmp_path / "new" / "folder")
    assert path.parent.name == "folder"
    assert json.loads(path.read_text()) == capsule
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, call):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        capsules.write_capsule(make_example(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_the_older_capsule_whole(tmp_path, monkeypatch):
    capsule = make_example()
    path = capsules.write_capsule(capsule, tmp_path)
    before = path.read_text()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        capsules.write_capsule({**capsule, "results": {"other": 1}}, tmp_path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_value_without_a_json_form_is_refused_before_anything_is_written(tmp_path):
    capsule = make_example()
    capsule["results"]["ratio"] = float("inf")
    with pytest.raises(ValueError, match="JSON"):
        capsules.write_capsule(capsule, tmp_path)
    assert os.listdir(tmp_path) == []


def test_folders_of_this_machine_stay_out(tmp_path):
    capsule = make_example()
    assert capsule["command"] == ["zmlx", "bench", "--capsule=out", "--runs", "3"]
    assert capsule["parameters"]["path"] == "model"
    assert capsules.shorten_command(["/x/lib/zmlx/validate/__main__.py", "./model"]) == [
        "python -m zmlx.validate",
        "./model",
    ]


def test_capsules_are_read_oldest_first(tmp_path):
    for second in ("03", "01", "02"):
        capsule = {**make_example(), "created": f"2026-01-01T00:00:{second}Z"}
        capsules.write_capsule(capsule, tmp_path)
    created = [capsule["created"][-3:-1] for _, capsule in capsules.read_capsules(tmp_path)]
    assert created == ["01", "02", "03"]


@pytest.mark.parametrize("text", ["{", "[]", '{"capsule_version": 0}'])
def test_what_is_not_a_capsule_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.json is not"):
        capsules.read_capsules(tmp_path)


def test_a_folder_that_cannot_be_written_is_found_beforehand(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write capsules"):
        capsules.check_writable(tmp_path / "file")
    capsules.check_writable(tmp_path / "folder")
    assert os.listdir(tmp_path / "folder") == []


def test_the_stored_capsules_obey_the_schema():
    for path, capsule in capsules.read_capsules(REPOSITORY / "benchmarks" / "repro_capsules"):
        check_schema(capsule)
        assert path.name.startswith(f"{capsule['kind']}-{capsule['label']}-")
        for entry in capsule["measurements"]:
            assert entry["median"] == pytest.approx(statistics.median(entry["runs"]))
