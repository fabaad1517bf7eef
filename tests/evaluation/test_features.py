import numpy as np
import pytest
import torch
from conftest import FLOWERS

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.evaluation.efficientnet_lite import EfficientNetLite0
from flower_ddim.evaluation.features import FeatureExtractor, load_extractor


@pytest.fixture(scope="module")
def flowers():
    images = decode_images(open_dataset(data_dir=str(FLOWERS)), 64)
    return torch.from_numpy(images[range(32)]).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def efficientnet():
    return load_extractor()


def test_efficientnet_knows_flowers():
    """A wrong layer, order of weights or range of pixels would leave nothing of its judgement."""
    images = decode_images(open_dataset(data_dir=str(FLOWERS)), 224)
    pictures = torch.from_numpy(images[range(48)]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        classes = EfficientNetLite0.from_package().classify(pictures).argmax(1)
    daisy = 985  # of 1,000 ImageNet classes, few of which are flowers
    assert (classes == daisy).double().mean() > 0.2


def test_features_do_not_depend_on_batches_or_layout(efficientnet, flowers):
    together = efficientnet(flowers[:6])
    assert together.shape == (6, 1280) and together.dtype == torch.float32
    apart = efficientnet.extract(flowers[:6].contiguous().split(1))
    assert torch.allclose(together, apart, atol=1e-4)


def test_grey_pictures_are_coloured_ones_without_colour(efficientnet, flowers):
    grey = flowers[:2, :1]
    assert torch.equal(efficientnet(grey), efficientnet(grey.repeat(1, 3, 1, 1)))


def test_pictures_of_another_kind_are_refused(efficientnet, flowers):
    for wrong in (flowers.float() / 255, flowers[0], flowers[:, :2]):
        with pytest.raises(ValueError, match="uint8"):
            efficientnet(wrong)


def test_a_vision_model_of_transformers_does_as_well(tiny_extractor, flowers):
    extractor = load_extractor(tiny_extractor)
    assert isinstance(extractor, FeatureExtractor) and extractor.name == tiny_extractor
    features = extractor(flowers[:3])
    assert features.shape == (3, 16) and np.linalg.matrix_rank(features.numpy()) == 3


def test_a_convolutional_one_too(tmp_path, flowers):
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(tmp_path)
    assert load_extractor(str(tmp_path))(flowers[:3]).shape == (3, 16)


@pytest.mark.parametrize("name", ["facebook/dinov2-small", "/no/such/folder", "inception"])
def test_a_network_that_cannot_be_had_is_one_clear_error(name):
    # Inception's own package is not among the extras, since it needs torchvision.
    with pytest.raises(ValueError, match="(?s)feature extractor.*use efficientnet_lite0") as error:
        load_extractor(name)
    assert "\n" not in str(error.value)
