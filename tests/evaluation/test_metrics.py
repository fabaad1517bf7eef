import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from flower_ddim.evaluation.metrics import (
    Reference,
    compare,
    frechet_distance,
    kernel_distance,
    nearest,
    precision_recall,
)
from flower_ddim.evaluation.reports import score_table
from flower_ddim.extras import install_command
from flower_ddim.storage.files import write_json


def normal(count, dim=8, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_a_set_is_at_no_distance_from_itself():
    features = normal(500)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert precision_recall(features, features) == (1, 1)
    # Unbiased for pictures that are independent of each other: the copies, which are not, push it below 0.
    assert -0.1 < kernel_distance(features, features, subset_size=250)["mean"] <= 0
    kid = kernel_distance(normal(2000), normal(2000, seed=1), subset_size=250)
    assert abs(kid["mean"]) < kid["std"]


def test_frechet_distance_of_normal_distributions_is_the_closed_form():
    mean, std, dim = 0.5, 1.5, 8
    expected = dim * mean**2 + dim * (1 - std) ** 2
    distance = frechet_distance(normal(40_000, dim, mean, std), normal(40_000, dim, seed=1))
    assert distance == pytest.approx(expected, rel=0.03)


def test_kid_is_the_unbiased_estimate_of_the_squared_discrepancy():
    generated, real = normal(60, mean=0.3).double(), normal(60, seed=1).double()

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    others = ~torch.eye(60, dtype=torch.bool)
    expected = kernel(generated, generated)[others].mean() + kernel(real, real)[others].mean()
    expected -= 2 * kernel(generated, real).mean()
    kid = kernel_distance(generated.float(), real.float(), subsets=3, subset_size=60)
    assert kid["mean"] == pytest.approx(expected.item(), rel=1e-5)
    assert kid["std"] < 1e-9  # a subset of everything is always the same


def test_kid_grows_with_the_shift_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    distances = [kernel_distance(normal(300, mean=m), normal(300, seed=1), subset_size=200) for m in (0, 0.2, 0.5)]
    assert distances[0]["mean"] < distances[1]["mean"] < distances[2]["mean"]
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(normal(300, mean=0.2), normal(300, seed=1), subset_size=200) == distances[1]


def test_scores_are_those_of_torchmetrics_with_the_network_inside():
    images = torch.rand(2, 80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())  # 12 features
    ours = [network(part) for part in images]
    kid = KernelInceptionDistance(network, subsets=1, subset_size=80)
    network.num_features = 12
    frechet = FrechetInceptionDistance(network)
    for metric in (kid, frechet):
        metric.update(images[0], real=True)
        metric.update(images[1], real=False)
    assert kernel_distance(ours[1], ours[0], 1, 80)["mean"] == pytest.approx(kid.compute()[0].item(), abs=1e-6)
    assert frechet_distance(ours[1], ours[0]) == pytest.approx(frechet.compute().item(), abs=1e-5)


def test_precision_and_recall_tell_missing_kinds_from_wrong_ones():
    near, far = normal(200, 2), normal(200, 2, mean=100, seed=1)
    some = precision_recall(normal(200, 2, seed=2), torch.cat([near, far]))
    assert some[0] > 0.9 and 0.4 < some[1] <= 0.5
    wrong = precision_recall(torch.cat([normal(200, 2, seed=2), normal(200, 2, mean=-100, seed=3)]), near)
    assert 0.4 < wrong[0] <= 0.5 and wrong[1] > 0.9
    # One real picture at 0 whose ball reaches to its first neighbour at 1: 0.9 is within it, 1.1 within the neighbour's.
    line = torch.tensor([[0.0], [1.0], [3.0]])
    assert precision_recall(torch.tensor([[0.9], [-0.9], [-1.1]]), line, 1)[0] == pytest.approx(2 / 3)


def test_nearest_finds_copies_at_no_distance():
    candidates = 100 + normal(700, 64)
    distance, index = nearest(candidates[[5, 650]].clone(), candidates)
    assert index.tolist() == [5, 650] and distance.max() < 1e-5
    distance, index = nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[6.0, 8.0], [3.0, 4.0]]))
    assert distance.item() == 5 and index.item() == 1


@pytest.mark.parametrize(
    ("score", "needed"),
    [
        (lambda a, b: kernel_distance(a, b, subset_size=50), "at least 50"),
        (precision_recall, "at least 4"),
        (lambda a, b: frechet_distance(a[:1], b), "at least 2"),
        (lambda a, b: compare(a, Reference(b, "x", "y", 64)), "at least 400"),
    ],
)
def test_too_few_pictures_are_an_error_that_says_how_many_are_needed(score, needed):
    with pytest.raises(ValueError, match=needed):
        score(normal(3), normal(500))
    with pytest.raises(ValueError, match="subset_size"):
        kernel_distance(normal(9), normal(9), subset_size=1)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match=re.escape(install_command("metrics"))):
        kernel_distance(normal(500), normal(500))


def test_a_reference_comes_back_as_it_was(tmp_path):
    reference = Reference(normal(20), "some network", "some pictures", 64)
    reference.save(tmp_path / "new folder" / "ref.safetensors")
    loaded = Reference.load(tmp_path / "new folder" / "ref.safetensors")
    assert torch.equal(loaded.features, reference.features)
    assert (loaded.extractor, loaded.source, loaded.resolution) == ("some network", "some pictures", 64)


def test_what_is_no_reference_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="flower-ddim evaluate reference"):
        Reference.load(tmp_path / "ref.safetensors")
    (tmp_path / "text").write_text("no tensors")
    save_file({"features": normal(2)}, tmp_path / "nameless")
    save_file({"other": normal(2)}, tmp_path / "other", metadata={"extractor": "x", "source": "y"})
    for name in ("text", "nameless", "other"):
        with pytest.raises(ValueError, match="is not a reference"):
            Reference.load(tmp_path / name)


def test_the_table_says_what_the_numbers_depend_on(tmp_path):
    result = compare(normal(60), Reference(normal(50, seed=1), "net", "pictures", 64), kid_subset_size=40)
    write_json(tmp_path / "new" / "metrics.json", result)
    table = score_table(json.loads((tmp_path / "new" / "metrics.json").read_text()))
    for word in ("KID × 1000", "±", "60 images", "50 real ones (pictures)", "net", "100 subsets of 40"):
        assert word in table
    assert "20 steps of FlowerDDIMScheduler" in score_table(
        result | {"num_inference_steps": 20, "scheduler": "FlowerDDIMScheduler"}
    )
