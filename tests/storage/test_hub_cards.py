import pytest

from flower_ddim.storage.hub_cards import is_edited, marked, with_choices


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


def test_choices_are_added_to_a_card_that_says_nothing_of_them():
    plain = marked("---\ntitle: Play\n---\n\n# Flowers\n\n---\n")
    card = with_choices(plain, {"license": "other", "license_name": "mine", "emoji": "🏃", "title": "Theirs"})
    assert card.startswith("---\nlicense: other\nlicense_name: mine\nemoji: 🏃\ntitle: Play\n---\n\n# Flowers\n")
    assert not is_edited(card) and card.count("SHA-256") == 1 and with_choices(card, {"license": "other"}) == card
    assert with_choices(CARD, {"license": "other", "license_name": "mine"}) == CARD  # which is under another licence
