import pytest

from flower_ddim.storage.hub_cards import is_edited, marked


CARD = marked("---\nlicense: mit\n---\n\n# Flowers\n")
NEW_SPACE = """---
title: Play
emoji: 🏃
colorFrom: purple
sdk: gradio
sdk_version: 6.0.0
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


@pytest.mark.parametrize(
    "card",
    [CARD, CARD.replace("\n", "\r\n"), CARD.rstrip(), "", "\n", "---\nlicense: mit\n---\n", "---\n---\n", NEW_SPACE],
)
def test_a_rendered_or_blank_card_is_not_edited(card):
    assert not is_edited(card)


@pytest.mark.parametrize(
    "card",
    [
        CARD.replace("# Flowers", "# My flowers"),
        CARD.replace("mit", "cc0-1.0"),
        CARD + "And more.\n",
        f"Before.\n{CARD}",
        CARD.partition("<!--")[0],
        "# Mine\n",
        "---\nlicense: mit\n---\n# Mine\n",
        "---\nlicense: mit\ndatasets:\n- mine\n---\n",
        "--- mine ---",
    ],
)
def test_what_somebody_has_written_is_an_edit(card):
    assert is_edited(card)
