"""What a command writes takes the place of nothing else."""

import pytest

from flower_ddim.commands.card import main as card
from flower_ddim.commands.evaluate import main as evaluate


def test_a_card_overwrites_no_pictures_but_its_own(saved, tmp_path):
    output, picture = tmp_path / "README.md", tmp_path / "README-samples.png"
    picture.write_bytes(b"mine")
    for text in (None, "# Mine\n![](README-samples.png)\n"):
        if text:
            output.write_text(text)
        with pytest.raises(OSError, match=r"README-samples.png is in the way of a picture of the card: move it"):
            card([str(saved), "--output", str(output)])
    assert picture.read_bytes() == b"mine" and sorted(tmp_path.iterdir()) == [picture, output]
    card([str(saved), "--output", str(output), "--no_images"])
    with pytest.raises(OSError, match="in the way"):  # of a card of ours that shows none
        card([str(saved), "--output", str(output)])
    picture.unlink()
    for _ in range(2):
        card([str(saved), "--output", str(output)])
        assert len(picture.read_bytes()) > 1000
        picture.write_bytes(b"of the first time")


@pytest.mark.parametrize(
    "verb, options",
    [
        ("steps", {"output": "x.png"}),
        ("steps", {"output": "x.svg", "format": "svg"}),
        ("steps", {"output": "doc.md", "document": "doc.md"}),
        ("score", {"output": "ref.safetensors", "reference": "ref.safetensors"}),
    ],
)
def test_no_file_is_two_outputs_of_an_evaluation(tmp_path, monkeypatch, verb, options):
    monkeypatch.chdir(tmp_path)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with pytest.raises(ValueError, match=f"would be two things at once: name another `--output`, such as {verb}.json"):
        evaluate([verb, *words])
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written_is_known_before_the_work(tmp_path):
    (tmp_path / "numbers.png").mkdir()
    with pytest.raises(OSError, match="numbers.png cannot be written: it is a folder"):
        evaluate(["steps", "--output", str(tmp_path / "numbers.json")])
    (tmp_path / "closest_pairs.webp").mkdir()
    with pytest.raises(OSError, match="closest_pairs.webp cannot be written"):
        evaluate(["overfitting", "--data", "x", "--output_dir", str(tmp_path), "--format", "webp"])
