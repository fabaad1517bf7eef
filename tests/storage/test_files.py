import os
import subprocess
import sys

import pytest

from flower_ddim.storage.files import check_output, read_metrics, write_text


def test_half_a_line_at_the_end_of_a_log_is_passed_over_and_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    path.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.4}\n')
    with pytest.raises(ValueError, match="Line 1 of .*metrics.jsonl is damaged"):
        read_metrics(path)


WRITE_OFTEN = """
import sys
from flower_ddim.storage.files import write_text

for _ in range(500):
    write_text(sys.argv[1], sys.argv[2] * 10_000)
"""


def test_two_processes_can_write_the_same_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    commands = [[sys.executable, "-c", WRITE_OFTEN, str(path), letter] for letter in "ab"]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_text(tmp_path / "taken", "text")
    assert os.listdir(tmp_path) == ["taken"] and os.listdir(tmp_path / "taken") == ["inside"]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    check_output(tmp_path / "new" / "folder" / "file.txt")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below.txt", tmp_path):
        with pytest.raises(OSError, match=f"^{path} cannot be written: .* name"):
            check_output(path)
    assert os.listdir(tmp_path) == ["file"]
