"""The content of the figures: what is in their panels and curves, not that a file appears."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import FLOWERS, make_unet
from PIL import Image, ImageSequence

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler, figures
from flower_ddim.figures.gallery import Gallery


@pytest.fixture(params=[(3, 16), (1, 32)], ids=["colour-16", "grey-32"])
def any_pipe(request):
    channels, size = request.param
    return make_pipe(in_channels=channels, out_channels=channels, sample_size=size)


def make_pipe(**config):
    pipe = FlowerDDIMPipeline(make_unet(**config), FlowerDDIMScheduler(prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_noise(pipe, count, seed=0):
    return torch.randn(count, *pipe.latent_shape, generator=torch.Generator().manual_seed(seed))


def panels(figure, columns):
    """The images of a grid, row by row; an empty place is None."""
    images = [np.asarray(axis.images[0].get_array()) if axis.images else None for axis in figure.axes]
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def row_labels(figure):
    return [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]


def close_pixels(a, b):
    """Whether two images are the same up to rounding."""
    return abs(a.astype(int) - b.astype(int)).max() <= 1


def test_dataset_shows_the_images_in_their_order():
    images = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(5)]
    rows = panels(figures.dataset(images, columns=3), columns=3)
    assert [[panel is not None and panel[0, 0, 0] for panel in row] for row in rows] == [[0, 1, 2], [3, 4, False]]


def test_pixels_of_any_kind():
    floats = np.array([[0.0, 0.5], [1.0, 2.0]])
    expected = [[0, 128], [255, 255]]
    for image in (floats, floats[..., None], Image.fromarray(np.array(expected, dtype=np.uint8))):
        np.testing.assert_array_equal(figures.as_pixels(image), expected)
    assert figures.as_pixels(floats[..., None].repeat(3, -1)).shape == (2, 2, 3)


def test_schedule_curves_have_the_values_of_the_formulas():
    signal_axis, noise_axis = figures.schedules(num_points=11).axes
    signal, noise = ({line.get_label(): line for line in axis.lines} for axis in (signal_axis, noise_axis))
    assert list(signal) == list(noise) == ["linear", "cosine", "offset_cosine"]
    assert [text.get_text() for text in signal_axis.get_legend().get_texts()] == list(signal)
    for name in signal:
        np.testing.assert_allclose(signal[name].get_xdata(), np.linspace(0, 1, 11), atol=1e-6)
        np.testing.assert_allclose(signal[name].get_ydata() + noise[name].get_ydata(), 1, atol=1e-6)
    angles = np.linspace(math.acos(0.95), math.acos(0.02), 11)
    np.testing.assert_allclose(signal["offset_cosine"].get_ydata(), np.cos(angles) ** 2, atol=1e-6)
    np.testing.assert_allclose(signal["cosine"].get_ydata(), np.cos(np.linspace(0, math.pi / 2, 11)) ** 2, atol=1e-6)
    halfway = np.prod(1 - np.linspace(0.0001, 0.02, 1000)[:500])
    assert signal["linear"].get_ydata()[5] == pytest.approx(halfway, rel=1e-4)


def test_corruption_starts_clean_and_ends_in_noise():
    image = np.random.default_rng(0).random((64, 64, 3))
    figure = figures.corruption(image, num_images=5)
    linear, cosine, offset = panels(figure, columns=5)
    assert row_labels(figure) == ["linear", "cosine", "offset\ncosine"]
    assert titles(figure) == ["u = 0", "u = 0.25", "u = 0.5", "u = 0.75", "u = 1"]
    clean = figures.as_pixels(image)
    assert close_pixels(linear[0], clean) and close_pixels(cosine[0], clean)

    def similarity(panel):
        return np.corrcoef(panel.ravel(), clean.ravel())[0, 1]

    for row in (linear, cosine):
        values = [similarity(panel) for panel in row]
        assert values == sorted(values, reverse=True) and abs(values[-1]) < 0.1
    assert 0.8 < similarity(offset[0]) < 1 and similarity(offset[4]) > similarity(cosine[4])  # neither end is pure
    assert similarity(cosine[2]) > similarity(linear[2]) + 0.1  # which destroys the image too early
    noise = torch.randn(64, 64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert close_pixels(cosine[4], figures.as_pixels((noise.numpy() + 1) / 2))
    grey = figures.corruption(image[..., 0], num_images=2)
    assert panels(grey, 2)[0][0].shape == (64, 64)


def test_embedding_is_a_heat_map_of_32_by_100():
    heat_map = np.asarray(figures.embedding().axes[0].images[0].get_array())
    assert heat_map.shape == (32, 100)
    power = np.linspace(0, 1, 100)
    np.testing.assert_allclose(heat_map[0], np.sin(2 * math.pi * power), atol=1e-6)
    np.testing.assert_allclose(heat_map[31], np.cos(2 * math.pi * 1000 * power), atol=1e-6)


def test_loss_curves_of_several_runs(tmp_path):
    runs = {"a": [0.8, 0.4], "b": [0.7, 0.3]}
    for name, losses in runs.items():
        (tmp_path / name).mkdir()
        lines = [{"images": 500 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
        lines.append({"images": 1000, "validation_loss_ema": 0.5})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [tmp_path / name / "metrics.jsonl" for name in runs]
    (axis,) = figures.loss_curve(files, images_per_epoch=250).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert curves["a: loss"] == [[2, 0.8], [4, 0.4]] and curves["b: loss"] == [[2, 0.7], [4, 0.3]]
    assert curves["b: validation loss ema"] == [[4, 0.5]] and axis.get_xlabel() == "epoch"
    (axis,) = figures.loss_curve(files[:1]).axes
    assert axis.lines[0].get_label() == "loss" and axis.lines[0].get_xdata().tolist() == [0.5, 1]
    (tmp_path / "empty.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="holds no losses"):
        figures.loss_curve([tmp_path / "empty.jsonl"])


def test_samples_by_epoch_use_the_same_latents(any_pipe):
    latents = draw_noise(any_pipe, 2)
    other = make_pipe(**dict(any_pipe.unet.config) | {"image_mean": 0.2})
    figure = figures.samples_by_epoch([("epoch 1", any_pipe), ("epoch 2", other), ("again", any_pipe)], latents)
    first, second, third = panels(figure, columns=2)
    assert row_labels(figure) == ["epoch 1", "epoch 2", "again"]
    for i in range(2):
        assert close_pixels(first[i], third[i]) and not close_pixels(first[i], second[i])
        expected = figures.as_pixels(any_pipe(latents=latents[i : i + 1], output_type="np").images[0])
        assert close_pixels(first[i], expected)


def test_samples_by_epoch_are_cut_from_the_grids_of_a_training(tmp_path):
    make_pipe().save_pretrained(tmp_path / "model")  # of 16×16 pixels
    levels = np.arange(12, dtype=np.uint8).repeat(16).reshape(2, 96).repeat(16, 0) * 20
    for name, pixels in (("epoch-0001", levels), ("epoch-0050", 255 - levels)):
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{name}.png")
    grids = [tmp_path / "epoch-0001.png", tmp_path / "epoch-0050.png"]
    Gallery(tmp_path, tmp_path / "model", checkpoints=grids).draw(["samples_by_epoch"])
    assert (tmp_path / "samples_by_epoch.png").is_file()
    images = figures.cut_grid(Image.open(grids[1]), 16, 16)
    assert [image.shape for image in images] == [(16, 16, 3)] * 12
    assert [image.mean() for image in images] == [255 - 20 * i for i in range(12)]


def test_every_column_of_steps_starts_from_the_same_noise(any_pipe):
    latents = draw_noise(any_pipe, 2)
    figure = figures.steps(any_pipe, latents, numbers=(1, 2, 5))
    assert [title.split("\n")[0] for title in titles(figure)] == ["1 step", "2 steps", "5 steps"]
    assert all(float(title.split("\n")[1].removesuffix(" s")) > 0 for title in titles(figure))
    rows = panels(figure, columns=3)
    assert len(rows) == 2
    for i, row in enumerate(rows):
        for number, panel in zip((1, 2, 5), row, strict=True):
            image = any_pipe(latents=latents[i : i + 1], num_inference_steps=number, output_type="np").images[0]
            assert close_pixels(panel, figures.as_pixels(image))


def test_interpolation_strips_end_in_their_anchors(any_pipe):
    noises = draw_noise(any_pipe, 4)
    strips = panels(
        figures.interpolation(any_pipe, [noises[:2].unbind(), noises[2:].unbind()], num_images=3), columns=3
    )
    anchors = figures.generated(any_pipe, noises)
    middle = figures.generated(any_pipe, (noises[:1] + noises[1:2]) * 0.5**0.5)[0]
    assert len(strips) == 2
    for i, strip in enumerate(strips):
        assert close_pixels(strip[0], figures.as_pixels(anchors[2 * i]))
        assert close_pixels(strip[-1], figures.as_pixels(anchors[2 * i + 1]))
    assert close_pixels(strips[0][1], figures.as_pixels(middle))


LABELLED = {"num_class_embeds": 3, "class_names": ["rose", "hip", "a lily of a valley"]}


def test_classes_share_their_noise_and_have_a_column_each():
    pipe = make_pipe(**LABELLED)
    latents = draw_noise(pipe, 2)
    figure = figures.classes(pipe, latents, ["a lily of a valley", 0])
    assert titles(figure) == ["a lily of a\nvalley", "0"]
    for label, column in (("a lily of a valley", 0), ("rose", 1)):
        images = figures.generated(pipe, latents, class_labels=label)
        for row, image in zip(panels(figure, 2), images, strict=True):
            assert close_pixels(row[column], figures.as_pixels(image))


def test_every_class_has_a_caption_and_a_noise_of_its_own():
    pipe = make_pipe(**LABELLED)
    latents = draw_noise(pipe, 3)
    figure = figures.every_class(pipe, latents, columns=2)
    assert titles(figure) == ["rose", "hip", "a lily of a\nvalley"]
    images = [image for row in panels(figure, 2) for image in row]
    assert images.pop() is None
    for image, label, noise in zip(images, pipe.labels, latents, strict=True):
        assert close_pixels(image, figures.as_pixels(figures.generated(pipe, noise[None], class_labels=label)[0]))


def test_one_flower_turns_into_another():
    pipe = make_pipe(**LABELLED)
    latents = draw_noise(pipe, 1)
    (strip,) = panels(figures.class_interpolation(pipe, latents, [("rose", "hip")], num_images=3), 3)
    for image, label in ((strip[0], "rose"), (strip[-1], "hip")):
        assert close_pixels(image, figures.as_pixels(figures.generated(pipe, latents, class_labels=label)[0]))
    assert not close_pixels(strip[0], strip[1])


def test_inversion_shows_the_picture_its_noise_and_what_it_gives(any_pipe):
    torch.nn.init.normal_(any_pipe.unet.conv_out.weight, 0, 0.1)
    pictures = torch.rand(2, *any_pipe.latent_shape, generator=torch.Generator().manual_seed(0))
    figure = figures.inversion(any_pipe, pictures, num_inference_steps=10)
    real, noise, rebuilt = panels(figure, columns=2)
    found = any_pipe.invert(pictures, 10)
    for i, title in enumerate(titles(figure)):
        assert close_pixels(real[i], figures.as_pixels(pictures[i].permute(1, 2, 0).numpy()))
        assert close_pixels(noise[i], figures.as_pixels((found[i] / 6 + 0.5).permute(1, 2, 0).numpy()))
        error = abs(rebuilt[i] / 255 - real[i] / 255).mean()
        assert title.startswith(f"std {found[i].std():.2f}")
        assert float(title.split("error ")[1]) == pytest.approx(error, abs=2e-3)


def test_inversion_table_gets_better_with_cost():
    pipe = make_pipe()
    torch.nn.init.normal_(pipe.unet.conv_out.weight, 0, 0.1, generator=torch.Generator().manual_seed(0))
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    table = figures.inversion_table(pipe, pictures, settings=((5, 0), (5, 1), (5, 4), (10, 4)))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[4:]]
    assert [row[:3] for row in rows] == [
        ["5", "reversed grid", "5"],
        ["5", "1", "5"],
        ["5", "4", "20"],
        ["10", "4", "40"],
    ]
    errors = [float(row[3]) for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2


def test_real_pictures_are_joined_in_three_ways(any_pipe):
    torch.nn.init.normal_(any_pipe.unet.conv_out.weight, 0, 0.1, generator=torch.Generator().manual_seed(0))
    pictures = torch.rand(2, *any_pipe.latent_shape, generator=torch.Generator().manual_seed(0))
    figure = figures.real_interpolation(any_pipe, pictures, num_images=3)
    as_found, unit, rescaled = panels(figure, columns=3)
    assert [label.split("\n")[0] for label in row_labels(figure)] == ["as found", "unit deviation", "rescale=True"]
    for i in (0, -1):
        assert close_pixels(as_found[i], rescaled[i]) and not close_pixels(as_found[i], unit[i])


def test_trajectory_goes_from_the_noise_to_the_image(any_pipe):
    latents = draw_noise(any_pipe, 1)
    noisy, predicted = figures.trajectory_states(any_pipe, latents, num_inference_steps=6)
    assert len(noisy) == len(predicted) == 6
    np.testing.assert_allclose(noisy[0], any_pipe.postprocess(latents, "np")[0], atol=1e-6)
    expected = any_pipe(latents=latents, num_inference_steps=6, output_type="np").images[0]
    np.testing.assert_allclose(predicted[-1], expected, atol=1e-5)

    figure = figures.trajectory(noisy, predicted, columns=3)
    above, below = panels(figure, columns=3)
    assert titles(figure) == ["u = 1.00", "u = 0.67", "u = 0.17"] and row_labels(figure) == ["x_t", "x̂_0"]
    assert close_pixels(above[0], figures.as_pixels(noisy[0]))
    assert close_pixels(below[-1], figures.as_pixels(expected))


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animation_holds_the_frames_in_order_and_repeats(any_pipe, ending, tmp_path):
    states = figures.trajectory_states(any_pipe, draw_noise(any_pipe, 1), num_inference_steps=4)
    frames = figures.trajectory_frames(*states)
    side = any_pipe.unet.config.sample_size
    assert len(frames) == 12 and frames[0].size == (2 * side, side)
    frames = [Image.new("L", (4, 2), 60 * i) for i in range(4)]
    figures.save_animation(frames, tmp_path / f"a.{ending}", frames_per_second=5, size=8)
    animation = Image.open(tmp_path / f"a.{ending}")
    assert animation.n_frames == 4 and animation.size == (16, 8) and animation.info["loop"] == 0
    read = [np.asarray(frame.convert("L")).mean() for frame in ImageSequence.Iterator(animation)]
    np.testing.assert_allclose(read, [0, 60, 120, 180], atol=6)
    assert animation.info["duration"] == 200


def test_animations_need_a_format_that_moves(tmp_path):
    with pytest.raises(ValueError, match=".gif or .webp"):
        figures.save_animation([Image.new("L", (4, 4))], tmp_path / "a.png")
    with pytest.raises(ValueError, match="frames_per_second"):
        figures.save_animation([Image.new("L", (4, 4))], tmp_path / "a.gif", frames_per_second=0)


def test_gallery_explains_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no figure 'roses'; there are dataset"):
        Gallery(tmp_path).draw(["roses"])
    for name, needed in (("dataset", "data"), ("loss_curve", "metrics"), ("samples_by_epoch", "checkpoints")):
        with pytest.raises(ValueError, match=f"{name}.*`{needed}`"):
            Gallery(tmp_path).draw([name])
    with pytest.raises(ValueError, match="needs a model of several classes"):
        Gallery(tmp_path).draw(["classes"])


def test_a_figure_that_cannot_be_written_is_found_before_any_is_drawn(tmp_path):
    (tmp_path / "embedding.png").mkdir()
    with pytest.raises(OSError, match="embedding.png cannot be written: it is a folder"):
        Gallery(tmp_path).draw(["schedules", "embedding"])
    assert not (tmp_path / "schedules.png").exists()


@pytest.mark.slow
def test_every_figure_is_written_by_the_script(run_script, tmp_path):
    make_pipe(block_out_channels=(4, 8), **LABELLED).save_pretrained(tmp_path / "model")
    (tmp_path / "metrics.jsonl").write_text('{"images": 1, "loss": 1.0}\n{"images": 2, "loss": 0.5}\n')
    arguments = ["--model", tmp_path / "model", "--data", FLOWERS, "--metrics", tmp_path / "metrics.jsonl"]
    arguments += ["--checkpoints", tmp_path / "model", "--num_inversions", 2, "--output_dir", tmp_path / "figures"]
    completed = run_script("figures.py", *arguments)
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    expected = {f"{name}.png" for name in Gallery.NAMES} | {"inversion.md", "trajectory_animation.webp"}
    assert written == expected and all(str(tmp_path / "figures" / name) in completed.stdout for name in expected)

    arguments = ["--only", "schedules", "--format", "svg", "--output_dir", tmp_path / "one"]
    run_script("figures.py", *arguments)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["schedules.svg"]


def test_interpolate_animates_a_loop(run_script, tmp_path):
    make_pipe(block_out_channels=(4, 8)).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--num_images", 3, "--num_inference_steps", 2, "--size", 32]
    run_script("interpolate.py", *options, "--num_anchors", 3, "--output", tmp_path / "loop.gif")
    animation = Image.open(tmp_path / "loop.gif")
    assert animation.n_frames == 6 and animation.size == (32, 32)
    pictures = [tmp_path / f"{color}.png" for color in ("red", "blue")]
    for picture in pictures:
        Image.new("RGB", (40, 30), picture.stem).save(picture)
    run_script("interpolate.py", *options, "--images", *pictures, "--output", tmp_path / "real.webp")
    assert Image.open(tmp_path / "real.webp").n_frames >= 3  # equal neighbours may be joined
    completed = run_script("interpolate.py", *options, "--output", tmp_path / "a.png", expect_success=False)
    assert completed.returncode == 1 and ".gif or .webp" in completed.stderr and "Traceback" not in completed.stderr
