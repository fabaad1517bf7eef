import pytest

from flower_ddim.documents import replace_block


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
