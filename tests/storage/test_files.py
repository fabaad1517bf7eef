import pytest

from flower_ddim.storage.files import read_metrics


def test_half_a_line_at_the_end_of_a_log_is_passed_over_and_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    path.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.4}\n')
    with pytest.raises(ValueError, match="Line 1 of .*metrics.jsonl is damaged"):
        read_metrics(path)
