"""A card that somebody edited on the Hub stays as it is."""

import json

from hub_server import TOKEN, UPLOADED, run_hub_script
from huggingface_hub import RepoCard
from outside import run_python


PUSH_AGAIN = """
import json, sys
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
for word in sys.argv[2:]:  # a name, or options as JSON
    repo_id, options = ("me/flowers", json.loads(word)) if word.startswith("{") else (word, {})
    try:
        print(pipe.push_to_hub(repo_id, **options))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
LEFT_BLANK = {
    "me/only-a-licence": b"---\nlicense: mit\n---\n",
    "me/empty": b"",
    "me/without": None,
}


def test_a_card_that_was_edited_on_the_hub_is_not_overwritten(server, saved, tmp_path):
    for name, card in LEFT_BLANK.items():
        server.add("model", name, {} if card is None else {"README.md": card})
    server.add("model", "me/of-other-origin", {"README.md": b"# My flowers\n"})
    names = ["me/flowers", "me/flowers", *LEFT_BLANK, "me/of-other-origin"]
    hub = {"home": tmp_path, "hub": server.url, "HF_TOKEN": TOKEN}
    *pushed, refused = run_python(PUSH_AGAIN, saved, *names, **hub).stdout.splitlines()
    assert len(pushed) == 5 and all(line.startswith(server.url) for line in pushed), pushed
    assert all(sorted(server.model(name).files) == UPLOADED for name in names[:-1])
    assert refused.startswith(
        "ValueError: The card of me/of-other-origin was edited on the Hub, so nothing was uploaded"
    )
    assert "`--keep_card`" in refused and "`overwrite_card=True`" in refused
    assert server.model("me/of-other-origin").files == {"README.md": b"# My flowers\n"}

    flowers = server.model("me/flowers")
    edited = flowers.files | {"README.md": flowers.files["README.md"].replace(b"# flowers", b"# Our flowers")}
    flowers.commit(edited | {"samples.png": b"a better picture", "model_index.json": b"{}"})
    before = flowers.head
    both = json.dumps({"keep_card": True, "overwrite_card": True})
    pickled = json.dumps({"safe_serialization": False})
    lines = run_python(PUSH_AGAIN, saved, "me/flowers", both, pickled, json.dumps({"keep_card": True}), **hub)
    lines = lines.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ValueError"] * 3 + ["http"]
    assert "choose one" in lines[1] and "pickles" in lines[2] and list(flowers.commits)[-2] == before
    assert flowers.files["README.md"] == edited["README.md"] and flowers.files["samples.png"] == b"a better picture"
    assert flowers.files["model_index.json"] == (saved / "model_index.json").read_bytes()

    completed = run_hub_script("push_to_hub.py", saved, "me/flowers", hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and "was edited on the Hub" in completed.stderr.splitlines()[-1]
    completed = run_hub_script(
        "push_to_hub.py", saved, "me/flowers", "--overwrite_card", hub=server.url, home=tmp_path
    )
    assert completed.returncode == 0, completed.stderr
    assert b"# flowers\n" in flowers.files["README.md"] and len(flowers.files["samples.png"]) > 1000


def test_a_licence_that_was_chosen_on_the_hub_stays(server, saved, tmp_path):
    chosen = b"---\nlicense: other\nlicense_name: of-the-garden\n---\n"
    server.add("model", "me/flowers", {"README.md": chosen})
    hub = {"home": tmp_path, "hub": server.url, "HF_TOKEN": TOKEN}
    mit = json.dumps({"license": "mit"})
    for again, (words, expected) in enumerate(
        ((["me/flowers"] * 2, "other"), ([mit], "mit"), (["me/flowers"], "mit"))
    ):
        lines = run_python(PUSH_AGAIN, saved, *words, **hub).stdout.splitlines()
        assert all(line.startswith(server.url) for line in lines), lines
        card = RepoCard(server.model("me/flowers").files["README.md"].decode())
        assert card.data.license == expected and f"The licence of the weights is {expected}." in card.text
        assert card.data.get("license_name") == ("of-the-garden" if again == 0 else None)


def test_an_edited_card_does_not_stand_in_the_way_of_a_proposal(server, saved, tmp_path):
    edited = {"README.md": b"---\nlicense: mit\n---\n# My flowers\n"}
    server.add("model", "me/flowers", edited)
    proposal = json.dumps({"create_pr": True})
    (line,) = run_python(
        PUSH_AGAIN, saved, proposal, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN
    ).stdout.splitlines()
    assert line.startswith(server.url), line
    flowers = server.model("me/flowers")
    proposed = list(flowers.commits.values())[-1]
    assert flowers.files == edited and RepoCard(proposed["README.md"].decode()).data.license == "mit"


UPLOAD_LATE = """
import sys
from flower_ddim.hub.upload import upload_folder

print(upload_folder(sys.argv[1], "me/flowers", None, overwrite_card=True, parent_commit="0" * 40))
"""


def test_an_edit_between_check_and_upload_is_noticed(server, saved, tmp_path):
    server.add("model", "me/flowers", {"README.md": b"# My flowers\n"})
    completed = run_python(UPLOAD_LATE, saved, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert "(412): somebody has changed the repository meanwhile, so try again." in completed.stderr.splitlines()[-1]
    assert server.model("me/flowers").files == {"README.md": b"# My flowers\n"}


def test_the_card_of_a_space_is_not_overwritten_either(server, saved, tmp_path):
    server.add("space", "me/play", {"README.md": b"---\nsdk: gradio\n---\n# Come and play\n"})
    before = server.repositories["space", "me/play"].files
    push = ("push_to_hub.py", saved, "me/play", "--space", "gradio")
    completed = run_hub_script(*push, hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and "The card of me/play was edited" in completed.stderr.splitlines()[-1]
    assert server.repositories["space", "me/play"].files == before
    completed = run_hub_script(*push, "--keep_card", hub=server.url, home=tmp_path)
    assert completed.returncode == 0 and "README.md" not in completed.stdout, completed.stderr
    after = server.repositories["space", "me/play"].files
    assert after["README.md"] == before["README.md"] and "app.py" in after


def test_a_space_stays_as_it_was_made(server, saved, tmp_path):
    blank = "---\ntitle: Play\nemoji: 🏃\ncolorFrom: purple\nsdk: gradio\napp_file: app.py\npinned: false\nlicense: mit\n---\n"
    server.add("space", "me/play", {"README.md": blank.encode()})
    completed = run_hub_script("push_to_hub.py", saved, "me/play", "--space", "gradio", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    card = RepoCard(server.repositories["space", "me/play"].files["README.md"].decode()).data.to_dict()
    kept = {"license": "mit", "emoji": "🏃", "colorFrom": "purple", "pinned": False, "title": "play"}
    assert kept.items() <= card.items() and "app_file" in card
