import pytest
import torch

from flower_ddim.data.batches import BatchSampler


def test_every_pass_visits_every_picture_once_in_a_new_order():
    batches = BatchSampler(num_images=10, batch_size=3, seed=0)
    assert batches.batches_per_epoch == 3
    passes = [torch.cat([batches(3 * p + i) for i in range(3)]).tolist() for p in range(4)]
    for order in passes:
        assert len(set(order)) == 9 and set(order) <= set(range(10))
    assert len({tuple(order) for order in passes}) == 4


def test_the_recipe_of_the_book_has_25550_steps_on_the_flowers():
    """An epoch is five passes one after the other, so that only its last partial batch is dropped."""
    batches = BatchSampler(num_images=6552, batch_size=64, seed=0, repeats=5)
    assert 50 * batches.batches_per_epoch == 25_550
    epoch = torch.cat([batches(step) for step in range(batches.batches_per_epoch)])
    assert torch.bincount(epoch, minlength=6552).unique().tolist() in ([4, 5], [5])


def test_batches_are_a_function_of_seed_and_step():
    forwards = [BatchSampler(10, 3, seed=5)(step).tolist() for step in range(9)]
    sampler = BatchSampler(10, 3, seed=5)
    assert [sampler(step).tolist() for step in reversed(range(9))][::-1] == forwards
    assert [BatchSampler(10, 3, seed=6)(step).tolist() for step in range(9)] != forwards


def test_too_few_pictures_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="fewer than one batch of 64"):
        BatchSampler(12, 64, seed=0)
