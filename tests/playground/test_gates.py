"""The shipped weights hold what the playground promises, on tasks that no later stage trains on."""

import pytest

from cai.models.loading import PLAYGROUND
from cai.playground.gates import Gate, measure, show


def test_a_gate_holds_within_its_bounds_and_the_tables_say_which_do_not(capsys):
    held = Gate("critiques", "theft", "fraud", 0.4, 0.4, 0.6, 10)
    broken = Gate("critiques", "theft", "privacy", 0.61, 0.4, 0.6, 10)
    assert show([held])
    assert "1 of 1 within" in capsys.readouterr().out
    assert not show([held, broken])
    out = capsys.readouterr().out
    assert "<0.61>" in out
    assert "<0.40>" not in out
    assert "1 of 2 within" in out


def test_the_shipped_files_are_small_and_whole():
    sizes = {path.name: path.stat().st_size for path in PLAYGROUND.iterdir()}
    assert sum(sizes.values()) < 8_000_000
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "training_log.jsonl",
        "README.md",
    } == set(sizes)


@pytest.mark.slow
@pytest.mark.untraced
def test_the_shipped_weights_hold_every_gate():
    gates = measure("playground", per_pair=8, answers=400)
    assert len(gates) == 6 + 36 + 30
    assert [gate for gate in gates if not gate.passed] == []
