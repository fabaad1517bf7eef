"""Students, which make in one step of the sampler what their teacher makes in several."""

import shutil

import pytest
import torch
from conftest import ROOT, load_pipeline, make_labelled_unet, make_stock_unet, make_unet
from diffusers import DDIMScheduler, UNet2DModel, UniPCMultistepScheduler
from training_runs import LAST_WEIGHTS, WEIGHTS, assert_same_weights, metrics, small_config, train_here, words

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.training.trainer import Trainer


# What a student's size and statistics are, its teacher says.
STUDENT = {"teacher_steps": 6, "student_steps": 2, "max_train_steps": 4, "loss": "mse", "learning_rate": 1e-2}
STUDENT |= {"block_out_channels": None, "layers_per_block": None, "resolution": 64}


def save_teacher(folder, prediction_type="v_prediction", make=make_unet, **config):
    unet = make(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3], **config)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type=prediction_type)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(runs):
    return save_teacher(runs / "teacher")


@pytest.fixture(scope="module")
def student(runs, teacher):
    """A student for two steps, of a training that has kept the checkpoint of every step."""
    options = STUDENT | {"checkpointing_steps": 1, "checkpoints_total_limit": 0, "use_ema": True}
    return train_here(runs / "student", teacher=str(teacher), **options)


def at(time, like):
    return torch.full((len(like),), time, dtype=torch.float32)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("name", ["whole", "named"])
def test_one_step_with_the_target_comes_where_two_of_the_teacher_do(runs, noise, prediction_type, name):
    """From pure noise, in between, and to the image itself; with guidance where there are classes, for what is named."""
    make = make_labelled_unet if name == "named" else make_unet
    folder = save_teacher(runs / f"{name}-{prediction_type}", prediction_type, make)
    guidance = {"teacher_guidance_scale": 2.5, "class_conditional": True} if name == "named" else {}
    options = STUDENT | {"student_steps": 3, "teacher": str(folder)} | guidance
    if name == "named":
        options |= {"train_data_dir": flowers_of_the_teacher(runs)}
    learner = Trainer(small_config(runs / "untrained", **options)).learner
    pipe = load_pipeline(folder)
    labels = [1, None] if name == "named" else None
    kwargs = {"class_labels": labels, "guidance_scale": 2.5} if name == "named" else {}
    states = [state.latents for state in pipe.denoise(noise, 6, **kwargs)]
    starts = [noise, states[1], states[3]]
    ends = [states[1], states[3], states[5]]
    told = torch.tensor([1, 3]) if name == "named" else None
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        times = at(1 - i / 3, noise), at(1 - (i + 1) / 3, noise)
        velocity = learner.distillation.target(start, *times, told, num_steps=2)
        learner.scheduler.set_timesteps(3)
        reached = learner.scheduler.step(velocity, learner.scheduler.timesteps[i], start).prev_sample
        torch.testing.assert_close(reached, end, atol=2e-3 if prediction_type == "epsilon" else 1e-4, rtol=1e-3)


def flowers_of_the_teacher(runs):
    """Pictures of two of its three classes."""
    from PIL import Image

    folder = runs / "pictures"
    for name in ("Rose hip", "rose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(16):
            Image.effect_noise((16, 16), 20 + i).convert("RGB").save(folder / name / f"{i}.png")
    return str(folder)


def test_the_loss_is_zero_where_the_teacher_makes_one_step_as_well(runs, teacher, noise):
    learner = Trainer(small_config(runs / "same", teacher=str(teacher), **STUDENT)).learner
    unet, times = learner.raw_unet.eval(), (at(0.75, noise), at(0.5, noise))
    target = learner.distillation.target(noise, *times, None, num_steps=1)
    prediction = unet(noise, learner.scheduler.schedule.timestep(times[0])).sample
    torch.testing.assert_close(target, prediction, atol=1e-5, rtol=1e-5)
    assert (learner.distillation.target(noise, *times, None, num_steps=2) - prediction).abs().max() > 1e-3


@pytest.mark.parametrize(("steps", "time", "start"), [(3, 0.9, 0), (3, 0.6, 1), (3, 0.1, 2), (1, 0.6, 0)])
def test_a_student_learns_to_go_on_from_where_its_own_step_leads(runs, teacher, noise, steps, time, start):
    """The loss is that of the velocity with which it comes where the teacher's steps from there come."""
    options = STUDENT | {"student_steps": steps}
    learner = Trainer(small_config(runs / "own", teacher=str(teacher), **options)).learner
    unet, scheduler = learner.raw_unet.eval(), learner.scheduler
    images = torch.rand_like(noise) - 0.5
    scheduler.set_timesteps(steps)
    begun = noise  # at first; and the step from noise needs no pictures
    if start == 2:
        begun = scheduler.add_noise(images, noise, scheduler.timesteps[1].expand(len(noise)))
    with torch.no_grad():
        if start:
            velocity = unet(begun, scheduler.timesteps[start - 1]).sample
            begun = scheduler.step(velocity, scheduler.timesteps[start - 1], begun).prev_sample
        prediction = unet(begun, scheduler.timesteps[start]).sample
        times = at(1 - start / steps, noise), at(1 - (start + 1) / steps, noise)
        target = learner.distillation.target(begun, *times, None, num_steps=6 // steps)
        loss = learner.distillation.loss(unet, images, noise, at(time, noise))
    torch.testing.assert_close(loss, (prediction - target).square().mean(), atol=1e-6, rtol=1e-3)


def test_the_target_for_gaussian_pictures_is_that_of_the_closed_form(runs, teacher, noise):
    """Pixels of variance c²: the best network is linear, so two steps multiply the noise by a known number."""
    learner = Trainer(small_config(runs / "gaussian", teacher=str(teacher), **STUDENT)).learner
    schedule, variance = learner.scheduler.schedule, 0.3

    def factor(start, end):
        (s, n), (s_end, n_end) = (schedule.rates(torch.tensor(u, dtype=torch.float64)) for u in (start, end))
        s_end, n_end = (s_end, n_end) if end else (1.0, 0.0)
        return float((s_end * s * variance + n_end * n) / (s**2 * variance + n**2))

    class Ideal(type(learner.distillation.unet)):
        def forward(self, sample, timestep, class_labels=None, return_dict=True):
            s, n = (rate.reshape(-1, 1, 1, 1) for rate in schedule.rates(schedule.diffusion_time(timestep)))
            return (s * n * (1 - variance) / (s**2 * variance + n**2) * sample,)

    learner.distillation.unet.__class__ = Ideal
    for start, end in ((1.0, 0.75), (0.5, 0.25), (0.25, 0.0)):
        middle = (start + end) / 2
        reached = factor(start, middle) * factor(middle, end)
        s, n = (float(rate) for rate in schedule.rates(torch.tensor(start, dtype=torch.float64)))
        s_end, n_end = (
            (float(rate) for rate in schedule.rates(torch.tensor(end, dtype=torch.float64))) if end else (1.0, 0.0)
        )
        image = (reached - n_end / n) / (s_end - n_end / n * s)
        expected = (s - image) / n * noise
        target = learner.distillation.target(noise, at(start, noise), at(end, noise), None, num_steps=2)
        torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)


def test_a_student_is_for_its_number_of_steps_and_says_so(student, teacher, noise, caplog):
    pipe = load_pipeline(student)
    assert pipe.default_num_inference_steps == 2 and pipe.unet.config.distilled_guidance_scale == 1.0
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.unet.config.image_mean == [0.4, 0.5, 0.6]
    plain = pipe(latents=noise, output_type="pt").images
    assert not caplog.messages
    torch.testing.assert_close(pipe(latents=noise, num_inference_steps=2, output_type="pt").images, plain)
    for _ in range(2):
        pipe(latents=noise, num_inference_steps=3)
    assert caplog.messages == ["This model has learned to make pictures in 2 steps, not in 3."]
    with pytest.raises(ValueError, match="this model has guidance 1 built in: leave it out"):
        pipe(latents=noise, guidance_scale=2.0)
    stock = DDIMScheduler.from_config(pipe.scheduler.config)
    same = FlowerDDIMPipeline(pipe.unet, stock)(latents=noise, output_type="pt").images
    torch.testing.assert_close(same, plain, atol=1e-3, rtol=1e-3)
    other = FlowerDDIMPipeline(pipe.unet, UniPCMultistepScheduler.from_config(pipe.scheduler.config))
    with pytest.raises(ValueError, match="not those of UniPCMultistepScheduler: take its own scheduler"):
        other(latents=noise)
    assert load_pipeline(student / "checkpoint-1").default_num_inference_steps == 2


def test_a_distillation_resumes_to_the_bit(student, teacher, runs):
    shutil.copytree(student, folder := runs / "resumed")
    options = STUDENT | {"checkpointing_steps": 1, "checkpoints_total_limit": 0}
    train_here(folder, teacher=str(teacher), **options, resume_from_checkpoint="checkpoint-2")
    assert_same_weights(folder / WEIGHTS, student / WEIGHTS)
    assert_same_weights(folder / "checkpoint-4" / LAST_WEIGHTS, student / "checkpoint-4" / LAST_WEIGHTS)
    assert metrics(folder) == metrics(student) and metrics(folder, "lr") == metrics(student, "lr")
    assert load_pipeline(folder).default_num_inference_steps == 2


def test_the_statistics_of_the_teacher_stay(student, teacher):
    weights = [load_pipeline(folder).unet.state_dict() for folder in (teacher, student)]
    names = [name for name in weights[0] if "running" in name]
    assert names and all(torch.equal(weights[0][name], weights[1][name]) for name in names)
    assert not torch.equal(weights[0]["conv_in.weight"], weights[1]["conv_in.weight"])


def test_two_processes_teach_what_one_does(runs, teacher, launch_two):
    """BatchNorm's statistics are frozen, so that halves of a batch give what the whole does."""
    one = train_here(runs / "one", teacher=str(teacher), **STUDENT)
    options = STUDENT | {"teacher": str(teacher), "train_batch_size": 8}
    launch_two(ROOT / "scripts" / "train.py", *words(runs / "two", **options))
    assert metrics(runs / "two") == pytest.approx(metrics(one), abs=1e-5)


def test_last_weights_without_an_average_are_taught_on_as_well(runs, teacher, caplog):
    caplog.set_level("INFO", "flower_ddim")
    folder = train_here(runs / "last", teacher=str(teacher), **STUDENT | {"use_ema": False, "checkpointing_steps": 3})
    assert load_pipeline(folder).default_num_inference_steps == 2 and len(metrics(folder)) == 4
    assert "The student learns to make in 2 steps what its teacher makes in 6." in caplog.messages


def test_classes_and_guidance_of_the_teacher_are_built_in(runs, noise):
    folder = save_teacher(runs / "classes", make=make_labelled_unet, default_guidance_scale=2.0)
    options = STUDENT | {
        "teacher": str(folder),
        "train_data_dir": flowers_of_the_teacher(runs),
        "validation_epochs": 1,
    }
    student = train_here(runs / "named", **options, class_dropout=0.5, eval_batch_size=2)
    pipe = load_pipeline(student)
    assert list(pipe.labels) == ["rose", "Rose hip", "sun-flower"] and pipe.unet.config.distilled_guidance_scale == 2.0
    one, other = (pipe(latents=noise, class_labels=name, output_type="pt").images for name in ("rose", "sun-flower"))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="guidance 2 built in"):
        pipe(latents=noise, class_labels="rose", guidance_scale=3.0)
    assert len(metrics(student, "validation_loss_ema_without_labels")) == 1
    train_here(runs / "dry", **options, dry_run=True)
    assert not (runs / "dry").exists()
    (other := runs / "others" / "tulip").mkdir(parents=True)
    shutil.copytree(runs / "pictures" / "rose", runs / "others" / "rose")
    shutil.copy(runs / "pictures" / "rose" / "1.png", other)
    with pytest.raises(ValueError, match="`teacher` does not know the class 'tulip'"):
        Trainer(small_config(runs / "unknown", **options | {"train_data_dir": str(runs / "others")}))


def test_what_cannot_be_taught_is_refused_before_anything_is_written(runs, teacher, student):
    FlowerDDIMPipeline(make_stock_unet(), FlowerDDIMScheduler()).save_pretrained(stock := runs / "stock")
    assert isinstance(load_pipeline(stock).unet, UNet2DModel)
    cases = [
        (
            {"teacher_steps": 10, "student_steps": 4},
            "`teacher_steps` is 10, but must be 2, 3, 4, … times `student_steps`, 4",
        ),
        (
            {"teacher_steps": 4, "student_steps": 4},
            "`teacher_steps` is 4, but must be 2, 3, 4, … times `student_steps`, 4",
        ),
        ({"init_from": str(teacher)}, "`init_from` contradicts `teacher`"),
        ({"teacher": None}, "`teacher_steps` is for students: name a `teacher`"),
        ({"teacher": str(stock)}, "is a stock UNet2DModel"),
        ({"teacher": str(student), "student_steps": 1}, "is a student itself, for 2 steps"),
        ({"teacher_guidance_scale": 2.0}, "knows no classes"),
        ({"class_conditional": True}, "knows none: leave it out"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            Trainer(small_config(runs / "refused", **STUDENT | {"teacher": str(teacher)} | changes))
    guided = STUDENT | {
        "teacher": str(student),
        "teacher_steps": 2,
        "student_steps": 1,
        "teacher_guidance_scale": 3.0,
    }
    with pytest.raises(ValueError, match="has guidance 1 built in"):
        Trainer(small_config(runs / "refused", **guided))
    assert not (runs / "refused").exists()


def test_another_teacher_on_resuming_is_refused(runs, teacher, student):
    shutil.copytree(student, folder := runs / "of-another")
    other = save_teacher(runs / "other-teacher")
    options = STUDENT | {"resume_from_checkpoint": "latest", "teacher_steps": 8}
    with pytest.raises(ValueError, match="teacher_steps 6 there, 8 here"):
        Trainer(small_config(folder, teacher=str(teacher), **options)).train()
    unet = load_pipeline(other).unet
    with torch.no_grad():
        unet.conv_in.weight.mul_(2)
    unet.save_pretrained(other / "unet")
    with pytest.raises(ValueError, match="teacher .* there, .* here"):
        Trainer(small_config(folder, teacher=str(other), **options | {"teacher_steps": 6})).train()
