"""FSDP2 and DDP on 2 and 4 ranks train as one device does, and go on from each other's checkpoints."""

import json

import pytest
from rank_processes import ROOT, run_ranks

pytestmark = pytest.mark.slow  # processes import everything
KINDS = ("diffusion", "reconstruction")
STEPS = 20


def train(ranks, folder, *cases):
    """Runs the cases of `sharded_cases.py` on so many ranks, one after the other."""
    run_ranks(ranks, folder, [str(ROOT / "tests/sharded_cases.py"), str(folder), *map(json.dumps, cases)])


def found(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def case(name, kind, strategy, steps=STEPS, **more):
    return {"name": name, "kind": kind, "strategy": strategy, "steps": steps, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trainings with clipping, accumulation, averages and selective checkpointing."""
    folder = tmp_path_factory.mktemp("ranks")
    more = {"checkpointing": "selective"}
    train(1, folder, *(case(f"{kind}_auto_1", kind, "auto", **more) for kind in KINDS))
    for ranks in (2, 4):
        train(ranks, folder, *(
            case(f"{kind}_{strategy}_{ranks}", kind, strategy, **more)
            for kind in KINDS for strategy in ("ddp", "fsdp2")
        ))  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy, ranks", [("ddp", 2), ("ddp", 4), ("fsdp2", 2), ("fsdp2", 4)])
def test_many_ranks_train_as_one(folder, kind, strategy, ranks):
    one, many = found(folder, f"{kind}_auto_1"), found(folder, f"{kind}_{strategy}_{ranks}")
    assert len(one["losses"]) == STEPS
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert many["averages"] == pytest.approx(one["averages"], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_train_on_two_ranks_as_on_one(tmp_path, kind):
    more = {"checkpointing": "full" if kind == "diffusion" else "none", "compile": True}
    train(1, tmp_path, case("one", kind, "auto", 4, **more), case("plain", kind, "auto", 4))
    train(2, tmp_path, case("two", kind, "fsdp2", 4, **more))
    one, two, plain = (found(tmp_path, name)["losses"] for name in ("one", "two", "plain"))
    assert two == pytest.approx(one, rel=1e-5) and one == pytest.approx(plain, rel=1e-4)


@pytest.fixture(scope="module")
def resumed(folder):
    """From 2 ranks on to 2, 1 and 4; from 1 rank back to 2; from ddp to fsdp2 and back."""
    for kind in KINDS:

        def go(ranks, name, strategy, source, until, kind=kind, folder=folder):  # fmt: skip
            train(ranks, folder, case(f"{kind}_{name}", kind, strategy, until, saved=f"{kind}_{name}.ckpt",
                                      resumed=source and str(folder / f"{kind}_{source}.ckpt")))  # fmt: skip

        train(2, folder, case(f"{kind}_whole", kind, "fsdp2", 8),
              case(f"{kind}_begun", kind, "fsdp2", 4, saved=f"{kind}_begun.ckpt"))  # fmt: skip
        go(2, "again", "fsdp2", "begun", 8)
        go(1, "alone", "auto", "begun", 6)
        go(2, "back", "fsdp2", "alone", 8)
        go(4, "more", "fsdp2", "begun", 8)
        go(2, "copies", "ddp", "begun", 8)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_on_as_many_ranks_repeats_every_bit(resumed, kind):
    whole, again = found(resumed, f"{kind}_whole"), found(resumed, f"{kind}_again")
    assert again["losses"] == whole["losses"][4:]
    assert again["digest"] == whole["digest"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, first", [("alone", 4), ("back", 6), ("more", 4), ("copies", 4)])
def test_runs_go_on_on_any_number_of_ranks(resumed, kind, name, first):
    whole, other = found(resumed, f"{kind}_whole"), found(resumed, f"{kind}_{name}")
    last = first + len(other["losses"])
    assert other["losses"] == pytest.approx(whole["losses"][first:last], rel=1e-5) and last > first
    if last == 8:
        assert other["averages"] == pytest.approx(whole["averages"], rel=1e-5)
