import json
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

from flower_ddim import PRETRAINED
from flower_ddim.benchmarks.report import comparison_tables, device_tables, runtimes_tables, sizes_tables
from flower_ddim.evaluation.reports import (
    classes_table,
    guidance_table,
    memorization_table,
    score_table,
    scores_table,
    steps_table,
    students_table,
)
from flower_ddim.storage.documents import replace_block


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n")
    replace_block(document, "x", "new\n")
    replace_block(document, "x", "newer\n")
    assert document.read_text() == "a\n<!-- x -->\nnewer\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"


@pytest.mark.parametrize("text", ["", "<!-- x -->\n", "<!-- /x -->\n<!-- x -->\n"])
def test_a_document_without_the_marks_is_left_alone(tmp_path, text):
    document = tmp_path / "doc.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="<!-- x --> and <!-- /x -->"):
        replace_block(document, "x", "new\n")
    assert document.read_text() == text


@pytest.mark.parametrize("command", [["benchmark", "sizes"], ["evaluate", "score"]])
def test_a_document_is_looked_at_before_anything_is_measured(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("doc.md").write_text("nothing\n")
    with pytest.raises(ValueError, match="doc.md has no place for"):
        import_module(f"flower_ddim.commands.{command[0]}").main([*command[1:], "--document", "doc.md"])
    with pytest.raises(OSError, match="none.md"):
        import_module(f"flower_ddim.commands.{command[0]}").main([*command[1:], "--document", "none.md"])
    assert [path.name for path in tmp_path.iterdir()] == ["doc.md"]


def block(document, name):
    return (ROOT / document).read_text().split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def test_numbers_stand_in_the_documents_as_they_were_measured():
    score = json.loads((Path(PRETRAINED) / "metrics.json").read_text())
    assert block("docs/evaluate.md", "score") == score_table(score)
    students = json.loads((ROOT / "docs" / "evaluation" / "students.json").read_text())
    assert block("docs/few-steps.md", "students") == students_table(students)
    steps = json.loads((ROOT / "docs" / "evaluation" / "steps.json").read_text())
    assert block("docs/evaluate.md", "steps") == steps_table(steps)
    for name, tables in (("compare", comparison_tables), ("sizes", sizes_tables), ("device", device_tables)):
        result = json.loads((ROOT / "docs" / "performance" / f"{name}.json").read_text())
        for mark, table in tables(result).items():
            assert block("docs/performance.md", mark) == table
    runtimes = json.loads((ROOT / "docs" / "performance" / "runtimes.json").read_text())
    for mark, table in runtimes_tables(runtimes).items():
        assert block("docs/onnx.md", mark) == table
    guidance = json.loads((ROOT / "docs" / "evaluation" / "guidance.json").read_text())
    assert block("docs/classes.md", "guidance") == guidance_table(guidance)
    classes = json.loads((ROOT / "docs" / "evaluation" / "classes.json").read_text())
    assert block("docs/classes.md", "classes") == classes_table(classes)
    scores = [json.loads(path.read_text()) for path in sorted(Path(PRETRAINED).parent.glob("*/metrics.json"))]
    assert sorted(block("docs/evaluate.md", "scores").splitlines()) == sorted(scores_table(scores).splitlines())
    report = json.loads((ROOT / "docs" / "evaluation" / "overfitting.json").read_text())["memorization"]
    assert block("docs/evaluate.md", "overfitting") == memorization_table(report)
