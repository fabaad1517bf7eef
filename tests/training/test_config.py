import pytest

from flower_ddim import PRETRAINED
from flower_ddim.training.arguments import RECIPES, find_recipe, parse_config, recipe_names
from flower_ddim.training.config import TrainingConfig


SOURCE = ["--train_data_dir", "pictures"]


def test_defaults_are_the_recipe_of_the_book():
    config = parse_config(SOURCE)
    assert (config.num_epochs, config.dataset_repeats, config.train_batch_size) == (50, 5, 64)
    assert (config.learning_rate, config.adam_weight_decay, config.lr_scheduler) == (1e-3, 1e-4, "constant")
    assert (config.loss, config.ema_max_decay, config.ema_power) == ("mae", 0.999, None)


@pytest.mark.parametrize("extension", ["yaml", "json"])
def test_a_recipe_stands_below_the_command_line(tmp_path, extension):
    text = {
        "yaml": "train_data_dir: pictures\nlearning_rate: 1e-4\nseed: 1\nblock_out_channels: [8, 16]\nrandom_flip: true\n",
        "json": '{"train_data_dir": "pictures", "learning_rate": 1e-4, "seed": 1, '
        '"block_out_channels": [8, 16], "random_flip": true}',
    }[extension]
    recipe = tmp_path / f"recipe.{extension}"
    recipe.write_text(text)
    config = parse_config([str(recipe), "--seed", "3", "--no_center_crop"])
    assert config.learning_rate == 1e-4 and config.random_flip is True and config.block_out_channels == [8, 16]
    assert config.seed == 3 and config.center_crop is False


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--learning_rate", "abc"], "invalid float value: 'abc'"),
        (["--loss", "huber"], "invalid choice: 'huber'"),
        (["--prediction_typ", "epsilon"], "--prediction_typ"),
        (["--seed", "1.5"], "invalid int value: '1.5'"),
    ],
)
def test_unknown_options_and_wrong_types_are_named(arguments, message, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        parse_config([*SOURCE, *arguments])
    assert message in capsys.readouterr().err + str(error.value)


def test_recipes_go_through_the_same_checks(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train_data_dir: pictures\nlearning_rate: abc\n")
    with pytest.raises(SystemExit):
        parse_config([str(recipe)])
    assert "invalid float value: 'abc'" in capsys.readouterr().err
    for text, message in (("a: [", "is not valid YAML"), ("- a list", "option: value")):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=message):
            parse_config([str(recipe)])
    with pytest.raises(FileNotFoundError, match="There is no recipe"):
        parse_config([str(tmp_path / "missing.yaml")])


def test_recipes_of_the_package_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_names() == ["book", "cpu", "few-steps", "quick"]
    assert parse_config(["cpu", *SOURCE]).optimizer == "muon"
    assert find_recipe("cpu") == find_recipe("recipes/cpu.yaml") == RECIPES / "cpu.yaml"

    # A file is read where a path or an ending says that it is one, and a name stays a name.
    (tmp_path / "recipes").mkdir()
    for name in ("cpu", "cpu.yaml", "recipes/cpu.yaml"):
        (tmp_path / name).write_text("seed: 7")
    for word in ("cpu.yaml", "recipes/cpu.yaml", "./cpu", str(tmp_path / "cpu")):
        assert parse_config([word, *SOURCE]).seed == 7
    assert find_recipe("cpu") == RECIPES / "cpu.yaml"


def test_the_model_to_start_from_may_be_a_shipped_one():
    assert parse_config([*SOURCE, "--init_from", "flower-ddim-64"]).init_from == PRETRAINED
    assert parse_config([*SOURCE, "--init_from", "owner/name"]).init_from == "owner/name"


def test_a_recipe_with_an_unknown_option_is_told_the_nearest(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("lr: 1e-4\n")
    with pytest.raises(SystemExit):
        parse_config([str(tmp_path / "recipe.yaml"), *SOURCE], prog="train.py")
    assert capsys.readouterr().err == "train.py: --lr: did you mean --learning_rate?\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dataset_name", "owner/name"], "either as `dataset_name`"),
        (["--train_batch_size", "0"], "`train_batch_size` is 0"),
        (["--max_train_steps", "0"], "`max_train_steps` is 0"),
        (["--checkpoints_total_limit", "-1"], "`checkpoints_total_limit` is -1"),
        (["--max_grad_norm", "0"], "`max_grad_norm` is 0"),
        (["--learning_rate", "-1"], "`learning_rate`"),
        (["--validation_fraction", "1"], "`validation_fraction`"),
        (["--init_from", "a", "--layers_per_block", "2"], "`layers_per_block` contradicts `init_from`"),
        (["--model_config_name_or_path", "a", "--block_out_channels", "8"], "contradicts `model_config_name_or_path`"),
        (
            ["--overwrite_output_dir", "--resume_from_checkpoint", "latest"],
            "starts anew and `resume_from_checkpoint` goes on",
        ),
        (["--streaming"], "validation_epochs 0"),
        (["--streaming", "--validation_epochs", "0"], "max_train_steps"),
        (["--lr_warmup_steps", "5"], "constant_with_warmup"),
        (["--ema_inv_gamma", "9"], "ema_power"),
        (["--eval_kid_epochs", "1", "--validation_epochs", "0"], "eval_kid_epochs"),
        (["--max_train_minutes", "0"], "`max_train_minutes` is 0"),
        (["--growth_steps", "9", "0"], "`growth_steps` is \\[9, 0\\]"),
        (["--init_from", "a", "--growth_steps", "9"], "that of `init_from` is whole"),
        (["--hub_private_repo"], "push_to_hub"),
    ],
)
def test_contradictions_and_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_config([*SOURCE, *arguments])


def test_help_can_be_printed(capsys):
    with pytest.raises(SystemExit) as error:
        parse_config(["--help"])
    assert error.value.code == 0 and "--gradient_accumulation_steps" in capsys.readouterr().out


def test_choices_are_checked_in_python_too():
    with pytest.raises(ValueError, match="`loss` is 'l1', but must be one of mae, mse"):
        TrainingConfig(train_data_dir="pictures", loss="l1")
