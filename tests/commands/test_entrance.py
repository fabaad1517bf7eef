"""The console command as its users meet it: what it lists, what it answers to slips, and that it does what the scripts do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, make_unet
from training_runs import metrics, words

import flower_ddim
from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


# What the installed `flower-ddim` runs; the test of the wheel runs that file itself.
CONSOLE = ["-c", "from flower_ddim.commands.main import main; main()"]


def run(*command, **environment):
    """Runs Python with arguments in a process of its own; returns it completed, its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


def flower_ddim_command(*arguments, **environment):
    return run(*CONSOLE, *arguments, **environment)


def assert_one_sentence(completed, code, *messages):
    """It ended with this exit code, and its last line, which is no traceback, says all of these."""
    assert completed.returncode == code, completed.stderr
    assert "Traceback" not in completed.stderr
    last = completed.stderr.splitlines()[-1]
    assert all(message in last for message in messages), completed.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


def test_without_a_subcommand_it_lists_them():
    completed = flower_ddim_command()
    assert completed.returncode == 0 and flower_ddim_command("--help").stdout == completed.stdout
    listed = [line.split()[0] for line in completed.stdout.splitlines() if line.startswith("  ")]
    expected = "train generate figures interpolate evaluate push card convert export web app benchmark info"
    assert listed == expected.split()
    for name in listed:
        assert (ROOT / "src" / "flower_ddim" / "commands" / f"{name}.py").is_file()


@pytest.mark.parametrize("statement", ["import flower_ddim", "from flower_ddim.commands.main import main; main()"])
def test_nothing_is_imported_before_it_is_needed(statement):
    code = f"import sys; sys.argv = ['flower-ddim']; {statement}; print(sorted({{'torch', 'diffusers', 'gradio', "
    code += "'matplotlib', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    completed = run("-c", code)
    assert completed.stdout.splitlines()[-1] == "[]", completed.stderr


def test_usage_names_the_command_that_was_typed(run_script):
    assert flower_ddim_command("train", "--help").stdout.startswith("usage: flower-ddim train [recipe] [--option")
    assert run("-m", "flower_ddim", "info", "--help").stdout.startswith("usage: flower-ddim info ")
    assert run("-m", "flower_ddim", "--help").stdout.startswith("usage: python -m flower_ddim ")
    completed = run("-m", "flower_ddim.training", "--help")
    assert completed.stdout.startswith("usage: python -m flower_ddim.training [recipe] ")
    assert run_script("train.py", "--help").stdout.startswith("usage: train.py [recipe] ")
    assert run_script("benchmark.py", "--help").stdout.startswith("usage: benchmark.py ")


@pytest.mark.parametrize(
    "arguments, messages",
    [
        (["genrate"], ["flower-ddim: ", "genrate", "did you mean generate?"]),
        (["eval"], ["eval", "did you mean evaluate?"]),
        (["xyz"], ["xyz", "flower-ddim --help"]),
        (["train", "cpu", "--lr", "1e-3"], ["flower-ddim train: --lr: did you mean --learning_rate?"]),
        (["train", "--batch_size", 8], ["--batch_size: did you mean --train_batch_size?"]),
        (["train", "--lerning-rate=1"], ["--lerning-rate: did you mean --learning_rate?"]),
        (["train", "--gradient_acc", 2], ["--gradient_acc: did you mean --gradient_accumulation_steps?"]),
        (["train", "--seed", "one"], ["flower-ddim train: ", "--seed", "one"]),
        (["train", "--epochs", 8], ["--epochs: did you mean --num_epochs?"]),
        (["train", "--steps", 8], ["--steps: did you mean --max_train_steps?"]),
        (["train", "--ddpm_beta_schedule", "linear"], ["did you mean --schedule?"]),
        (
            ["train", "--ddpm_num_inference_steps", 50],
            ["--ddpm_num_inference_steps: samples take the steps that the model is for"],
        ),
        (["train", "--local_rank", 0], ["accelerate"]),
        (["train", "--ddpm_num_steps", 1000], ["diffusion time is continuous"]),
        (["train", "--enable_xformers_memory_efficient_attention"], ["leave it out"]),
        (["train", "--preserve_input_precision"], ["8 bits"]),
        (["train", "quick", "--train_data_dir", "a", "b"], ["b: this belongs to no option"]),
        (["info", "--out", "a.png"], ["flower-ddim info: --out: did you mean --output?"]),
        (["info", "--quite_another"], ["--quite_another: there is no such option, see --help"]),
        # Before what argparse would say, that a required argument is missing.
        (["push", "--dryrun"], ["--dryrun: did you mean --dry_run?"]),
        (["evaluate", "score_folder", "--imagse", "a"], ["flower-ddim evaluate score_folder: --imagse", "--images?"]),
        (["benchmark", "compare", "--batch", 4], ["--batch: did you mean --train_batch_size?"]),
        (["generate", "--steps", 4], ["flower-ddim generate: --steps: did you mean --num_inference_steps?"]),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest(arguments, messages):
    completed = flower_ddim_command(*arguments)
    assert_one_sentence(completed, 2, *messages)
    assert len(completed.stderr.splitlines()) == 1


def test_scripts_answer_in_the_same_way(run_script):
    completed = run_script("train.py", "--lr", 1, expect_success=False)
    assert_one_sentence(completed, 2, "train.py: --lr: did you mean --learning_rate?")
    completed = run_script("convert_keras.py", "--sample", 1, expect_success=False)
    assert_one_sentence(completed, 2, "convert_keras.py: --sample: did you mean --sample_size?")


def test_an_unknown_recipe_is_answered_with_all_there_are():
    recipes = sorted(path.stem for path in (ROOT / "src" / "flower_ddim" / "recipes").glob("*.yaml"))
    completed = flower_ddim_command("train", "quik", "--train_data_dir", "pictures")
    assert_one_sentence(completed, 1, "no recipe quik; quick, ", "did you mean quick?", *recipes)
    completed = run("-m", "flower_ddim.training", "nothing-like-it")
    assert_one_sentence(completed, 1, "python -m flower_ddim.training: ", "nothing-like-it", *recipes)


def test_an_unknown_model_is_answered_with_all_there_are(tmp_path):
    shipped = sorted(path.name for path in (ROOT / "src" / "flower_ddim" / "pretrained").iterdir())
    for name in shipped:
        assert (Path(flower_ddim.pretrained(name)) / "model_index.json").is_file()
    assert flower_ddim.pretrained("flower-ddim-64") == flower_ddim.PRETRAINED
    with pytest.raises(ValueError, match="did you mean flower-ddim-64") as error:
        flower_ddim.pretrained("flower-dim-64")
    assert all(name in str(error.value) for name in shipped)
    for name in ("", ".", "..", "flower-ddim-64/unet", "nothing-like-it"):
        with pytest.raises(ValueError, match="There is no model"):
            flower_ddim.pretrained(name)
    for command, option in ((("generate", "--output", tmp_path / "no.png"), "--model"), (("train",), "--init_from")):
        completed = flower_ddim_command(
            *command, "--train_data_dir" if command == ("train",) else "--seed", 0, option, "flower-dim-64"
        )
        problem = f"argument {option}: There is no model 'flower-dim-64'", "did you mean flower-ddim-64?"
        assert_one_sentence(completed, 2, f"flower-ddim {command[0]}: ", *problem, *shipped)
    # What has a slash may be an id on the Hub, so it is loading that tells what is wrong.
    completed = flower_ddim_command("generate", "--model", "owner/name", "--output", tmp_path / "no.png")
    assert_one_sentence(completed, 1, "flower-ddim generate: ", "owner/name")
    assert not (tmp_path / "no.png").exists()


def test_a_traceback_is_shown_to_those_who_ask_for_it():
    mistake = ("train", "--train_data_dir", "pictures", "--resolution", 0)
    assert_one_sentence(flower_ddim_command(*mistake), 1, "flower-ddim train: `resolution` is 0")
    completed = flower_ddim_command(*mistake, FLOWER_DDIM_TRACEBACK="1")
    assert completed.returncode == 1 and "Traceback" in completed.stderr
    assert_one_sentence(flower_ddim_command(*mistake, FLOWER_DDIM_TRACEBACK="0"), 1, "`resolution` is 0")


def test_what_is_no_mistake_of_the_user_shows_its_traceback():
    completed = run("-c", "from flower_ddim.entrance import run; run(lambda: {}['key'])")
    assert completed.returncode == 1 and "Traceback" in completed.stderr and "KeyError" in completed.stderr


def test_script_command_and_module_generate_the_same_file(run_script, model, tmp_path):
    options = ["--model", model, "--num_images", 2, "--num_inference_steps", 2, "--cell_size", 16, "--seed", 0]
    run_script("generate.py", *options, "--output", tmp_path / "script.png")
    for name, command in (("console", CONSOLE), ("module", ["-m", "flower_ddim"])):
        completed = run(*command, "generate", *options, "--output", tmp_path / f"{name}.png")
        assert completed.returncode == 0, completed.stderr
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / "script.png").read_bytes()


def test_a_shipped_model_is_known_by_its_name(tmp_path):
    completed = flower_ddim_command("card", "flower-ddim-64", "--output", tmp_path / "card.md")
    assert completed.returncode == 0, completed.stderr
    assert (tmp_path / "card.md").read_bytes() == (ROOT / "model_card.md").read_bytes()


def test_a_folder_goes_before_a_shipped_model_of_its_name(model, tmp_path, monkeypatch):
    from flower_ddim.entrance import model_folder

    monkeypatch.chdir(tmp_path)
    assert model_folder("flower-ddim-64") == flower_ddim.PRETRAINED
    (tmp_path / "flower-ddim-64").symlink_to(model)
    assert model_folder("flower-ddim-64") == "flower-ddim-64"
    assert model_folder("owner/name") == "owner/name"


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "flower_ddim.training"],
        pytest.param(
            ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "flower_ddim.training"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["python", "accelerate"],
)
def test_the_training_is_a_module_that_can_be_launched(launcher, tmp_path):
    completed = run(*launcher, "quick", *words(tmp_path / "run", max_train_steps=1))
    assert completed.returncode == 0, completed.stderr
    assert f"The trained pipeline is in {tmp_path / 'run'}." in completed.stdout
    # The learning rate, unlike the rest, is the recipe's: its cosine begins with the whole.
    assert metrics(tmp_path / "run", "lr") == {1: 1e-3}
    assert "prediction_type: v_prediction" in (tmp_path / "run" / "training.yaml").read_text()
