"""Compares two sets of pictures in the feature space of a network: KID, Fréchet distance, precision, recall."""

import importlib.util
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..extras import install_command
from ..storage.files import write_bytes


KID_SUBSET_SIZE = 400
FEW_PICTURES = 100

_DISTANCES_AT_A_TIME = 512  # rows of a matrix of distances, so that many pictures fit into memory


@dataclass(frozen=True)
class Reference:
    """Features of real pictures, computed once, to compare generated ones with.

    It holds all features and not only their mean and covariance, because KID, precision and recall compare single pictures.

    Args:
        features: float32 (N, D).
        extractor: name of their network.
        source: name of the pictures, for the reader of a score.
        resolution: side of the pictures in pixels.
        class_counts: how many pictures have which class, where they have any.
    """

    features: torch.Tensor
    extractor: str
    source: str
    resolution: int
    class_counts: dict[str, int] = field(default_factory=dict)

    def save(self, path: str | Path):
        """Writes a safetensors file, and makes its folder if there is none."""
        metadata = {"extractor": self.extractor, "source": self.source, "resolution": str(self.resolution)}
        if self.class_counts:
            metadata["class_counts"] = json.dumps(self.class_counts)
        write_bytes(path, save({"features": self.features.contiguous()}, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Reads what [`save`] has written.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a reference.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no reference {path}: make one with `flower-ddim evaluate reference`.")
        try:
            with safe_open(path, "pt") as file:
                known = file.metadata() or {}
                counts = json.loads(known.get("class_counts", "{}"))
                return cls(
                    file.get_tensor("features"), known["extractor"], known["source"], int(known["resolution"]), counts
                )
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path} is not a reference ({error}): make one with `flower-ddim evaluate reference`."
            ) from error


class _Features(nn.Identity):
    """Takes the place of a network in torchmetrics, for features that exist already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def compare(
    generated: torch.Tensor,
    reference: Reference,
    kid_subset_size: int = KID_SUBSET_SIZE,
) -> dict:
    """Computes all scores of generated pictures against real ones.

    Args:
        generated: features (N, D) from the network of the reference.
        reference: features of the real pictures.
        kid_subset_size: see [`kernel_distance`].

    Returns:
        `feature_extractor`, `reference`, `num_images`, `kid`, `frechet_distance`, `precision` and `recall`, ready for JSON; of few
        pictures also a `warning`, see [`few_pictures`].
    """
    check_possible(len(generated), len(reference.features), kid_subset_size)
    precision, recall = precision_recall(generated, reference.features)
    warning = few_pictures(len(generated), len(reference.features))
    return {
        "feature_extractor": reference.extractor,
        "reference": {"name": reference.source, "num_images": len(reference.features)},
        "num_images": len(generated),
        "kid": kernel_distance(generated, reference.features, subset_size=kid_subset_size),
        "frechet_distance": frechet_distance(generated, reference.features),
        "precision": precision,
        "recall": recall,
    } | ({"warning": warning} if warning else {})


def few_pictures(num_generated: int, num_real: int) -> str | None:
    """A sentence to stand beside scores of fewer than [`FEW_PICTURES`] pictures of a kind; `None` for enough of both."""
    if min(num_generated, num_real) >= FEW_PICTURES:
        return None
    return (
        f"{num_generated:,} generated and {num_real:,} real pictures are few: below {FEW_PICTURES} of each, Fréchet distance, "
        "precision and recall say little."
    )


def check_possible(num_generated: int, num_real: int, needed: int):
    """Raises a ValueError if torchmetrics is missing, or if there are too few pictures for a score: it says how many it needs."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise ValueError(f"Scores need the package torchmetrics: {install_command('metrics')}")
    if min(num_generated, num_real) < needed:
        raise ValueError(
            f"There are {num_generated} generated and {num_real} real pictures, but this score needs at least {needed} of each: "
            "take more pictures, or a smaller `kid_subset_size`."
        )


def kernel_distance(
    generated: torch.Tensor, real: torch.Tensor, subsets: int = 100, subset_size: int = KID_SUBSET_SIZE, seed: int = 0
) -> dict:
    """Squared maximum mean discrepancy with the kernel (x·y/D + 1)³, unbiased: KID (Bińkowski et al. 2018, section 4).

    Args:
        generated, real: features (N, D) and (M, D).
        subsets, subset_size: number of random subsets to average over, and of features of either side in each.
        seed: of the subsets.

    Returns:
        `mean` and standard deviation `std` over the subsets, and their number and size. It has no bias, so for pictures of the same
        kind it is about 0 and may be negative.

    Raises:
        ValueError: if there are too few features. The message says how many it needs.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    if subset_size < 2 or subsets < 1:
        raise ValueError(f"`subsets` is {subsets} and `subset_size` {subset_size}, but they must be at least 1 and 2.")
    check_possible(len(generated), len(real), subset_size)
    network = _Features(generated.shape[1])
    with warnings.catch_warnings(action="ignore"):  # about the memory of all features
        metric = KernelInceptionDistance(network, subsets=subsets, subset_size=subset_size, sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    with torch.random.fork_rng(devices=[]):  # it draws subsets from the global generator
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return {"mean": mean.item(), "std": std.item(), "subsets": subsets, "subset_size": subset_size}


def frechet_distance(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Squared Fréchet distance ‖μ₁-μ₂‖² + tr(Σ₁+Σ₂-2√(Σ₁Σ₂)) of two sets of features (N, D), as if they were normal.

    In Inception's features this is the FID (Heusel et al. 2017, equation 6). It is biased upwards, and the bias grows with fewer
    pictures: compare only distances of the same number of pictures.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    check_possible(len(generated), len(real), 2)
    metric = FrechetInceptionDistance(_Features(generated.shape[1]), sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return metric.compute().item()


def precision_recall(generated: torch.Tensor, real: torch.Tensor, num_neighbours: int = 3) -> tuple[float, float]:
    """Share of generated pictures among the real ones, and of real ones among the generated (Kynkäänniemi et al. 2019).

    A picture is among others if it lies in the ball around one of these that reaches to its `num_neighbours`-th nearest neighbour
    (equations 1 to 3).

    Raises:
        ValueError: if there are too few features. The message says how many it needs.
    """
    check_possible(len(generated), len(real), num_neighbours + 1)
    return _share_among(generated, real, num_neighbours), _share_among(real, generated, num_neighbours)


def _share_among(points: torch.Tensor, others: torch.Tensor, num_neighbours: int) -> float:
    # A point is its own nearest neighbour, which does not count.
    radii = torch.cat(
        [torch.cdist(part, others).kthvalue(num_neighbours + 1).values for part in others.split(_DISTANCES_AT_A_TIME)]
    )
    among = [(torch.cdist(part, others) <= radii).any(1) for part in points.split(_DISTANCES_AT_A_TIME)]
    return torch.cat(among).double().mean().item()


def nearest(queries: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the candidate (M, D) nearest to each query (N, D): its Euclidean distance (N,) and its index (N,)."""
    queries, candidates = queries.double(), candidates.double()  # in float32 the distance to a copy is not 0
    parts = [torch.cdist(part, candidates).min(1) for part in queries.split(_DISTANCES_AT_A_TIME)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
