"""Values of config.json and of a file's metadata: of the right kind and range, or one line."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from safetensors.torch import save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import config_json, error_of
from tests.oracles.wan_files import FOLDER
from tinybridge.checkpoints.identify import KINDS
from tinybridge.checkpoints.load import load

NOT_NUMBERS = [None, "x", "8", [], [[]], {}, {"a": 1}, [None], True]
NEVER = [*NOT_NUMBERS, float("inf"), float("-inf"), float("nan"), -1, 10**30, [-1], ["x"], [2.5]]


def write(folder: Path, kind: str) -> tuple[Path, dict]:
    """A part's folder of its own, and its config as it is published."""
    model = FOLDER[kind](0) if kind in FOLDER else make.models()[kind]
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    if kind in ("wan", "wan_vae", "umt5"):
        told = {"model_type": KINDS[kind].classes[0]} if kind == "umt5" else {}
        names = KINDS[kind].fields
        told |= {names.get(key, key): value for key, value in asdict(model.config).items()}
        return folder, told
    if kind == "flux_vae":
        return folder, config_json(kind, model.config) | {"in_channels": 3, "out_channels": 3}
    return folder, config_json(kind, model.config)


def told_of(folder: Path, kind: str, config: object) -> str:
    """The message of a config.json in this folder, "" where it loads."""
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    try:
        load(kind, folder, None, "meta", None)
    except (ValueError, OSError) as error:
        message = str(error)
        assert message.isprintable() and message.startswith(str(folder)) and len(message) < 1500
        return message
    return ""


def read_keys(kind: str, config: dict) -> list[str]:
    """Keys of a published config that the loader reads."""
    row = KINDS[kind]
    ours = {field.name for field in fields(row.config)}
    known = ours | set(row.fields.values()) | {"attention_head_dim", "block_out_channels"}
    return [key for key in config if key in known]


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_that_is_read_is_of_its_kind(tmp_path, kind):
    folder, config = write(tmp_path / kind, kind)
    assert told_of(folder, kind, config) == ""
    keys = read_keys(kind, config)
    assert len(keys) >= 6
    for key in keys:
        right = config[key]
        for value in NEVER:
            if isinstance(right, bool) and value is True:
                continue
            if key in ("shift_factor", "latents_mean") and value in (-1, [-1], 10**30, [2.5]):
                continue  # of any sign
            if isinstance(right, float) and value == 10**30:
                continue  # a number
            message = told_of(folder, kind, config | {key: value})
            if isinstance(right, list | tuple) and value in ([2.5], [-1]):
                assert message, (key, value)  # a list of the wrong length, if no worse
                continue
            assert f"config.json: {key} is " in message, (key, value, message)
            assert "expected a" in message or "expected true" in message


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_raises_and_nothing_hangs(tmp_path, kind):
    """Sizes that could be and are not these tensors', and whole files that are no config."""
    folder, config = write(tmp_path / kind, kind)
    for key in read_keys(kind, config):
        for value in (0, 1, 3, 2**20, 10**9, 10**18, 0.5, 1e300, [1], [3, 1], [1] * 400):
            told_of(folder, kind, config | {key: value})
    for whole in (None, [], [[1, 2]], "x", 3, True, {}, {"_class_name": []}, {"model_type": {}}):
        told_of(folder, kind, whole)
    for text in ("", "{", "nan", "[" * 100_000, '{"a": 1} x', "\ufeff{}", "\x00"):
        (folder / "config.json").write_text(text)
        message = error_of(load, kind, folder, None, "meta", None)
        assert message.startswith(str(folder / "config.json")) and message.isprintable()


def test_the_configs_of_a_files_metadata_are_held_to_the_same(tmp_path):
    model = make.models()["flux"]
    file = tmp_path / "flux1.safetensors"
    for config, words in (
        ({"depth": "x"}, "config in its metadata: depth is 'x', expected a positive whole number"),
        ([1], "config in its metadata: expected a dictionary"),
        ({"theta": 0}, "theta is 0"),
        ({"guidance": 1}, "guidance is 1, expected true or false"),
    ):
        save_file(model.state_dict(), file, {"config": json.dumps(config)})
        assert words in error_of(weights.load_flux, file)
    save_file(model.state_dict(), file, {"config": "{"})
    assert "config in its metadata: not readable as JSON" in error_of(weights.load_flux, file)


OTHERS = [  # kind, what its config.json says, words of the message
    ("clip", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("clip", {"model_type": "siglip_text_model"}, "is of 'siglip_text_model'"),
    ("t5", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
    ("t5", {"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu'"),
    ("t5", {"is_gated_act": False}, "is_gated_act is False"),
    ("t5", {"model_type": "mt5"}, "is of 'mt5'"),
    ("umt5", {"model_type": "mt5"}, "is of 'mt5'"),
    ("umt5", {"model_type": "t5"}, "is of 't5'"),
    ("wan", {"qk_norm": "rms_norm"}, "qk_norm is 'rms_norm'"),
    ("wan", {"cross_attn_norm": False}, "cross_attn_norm is False"),
    ("wan", {"patch_size": [1, 1, 1]}, "patch_size is [1, 1, 1]"),
    ("wan", {"added_kv_proj_dim": 48}, "added_kv_proj_dim is 48"),
    ("wan", {"_class_name": "WanModel", "model_type": "i2v"}, "model_type is 'i2v'"),
    ("wan", {"_class_name": "WanVACETransformer3DModel"}, "is of 'WanVACETransformer3DModel'"),
    ("wan_vae", {"is_residual": True}, "is_residual is True"),
    ("flux", {"_class_name": "ChromaTransformer2DModel"}, "is of 'ChromaTransformer2DModel'"),
    ("flux", {"patch_size": 2}, "patch_size is 2"),
    ("flux_vae", {"_class_name": "AutoencoderTiny"}, "is of 'AutoencoderTiny'"),
    ("flux_vae", {"act_fn": "relu"}, "act_fn is 'relu'"),
    ("flux_vae", {"scaling_factor": 1.5305}, "that of Stable Diffusion 3"),
]


@pytest.mark.parametrize("kind, told, words", OTHERS)
def test_the_config_of_another_model_is_believed(tmp_path, capsys, kind, told, words):
    folder, config = write(tmp_path / kind, kind)
    assert words in told_of(folder, kind, config | told)
    message = error_of(load, kind, folder, None, "meta", None)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert weights.main(["inspect", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_official_configs_are_what_is_expected(tmp_path):
    """What the published folders say of how they are computed."""
    said = {
        "clip": {"hidden_act": "quick_gelu", "projection_dim": 768},
        "t5": {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True},
        "wan": {"qk_norm": "rms_norm_across_heads", "cross_attn_norm": True, "image_dim": None,
                "patch_size": [1, 2, 2], "added_kv_proj_dim": None, "rope_max_seq_len": 1024},
        "wan_vae": {"attn_scales": [], "dropout": 0.0},
        "flux": {"patch_size": 1, "out_channels": None},
        "flux_vae": {"act_fn": "silu", "force_upcast": True, "latents_mean": None},
    }  # fmt: skip
    for kind, more in said.items():
        folder, config = write(tmp_path / kind, kind)
        assert told_of(folder, kind, config | more) == "", kind


def test_a_config_of_another_model_among_many_files_is_passed_over(tmp_path):
    """As in the vendor's folder of WAN, whose config.json is the transformer's."""
    folder, _ = write(tmp_path / "t5", "t5")
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "dim": 8}))
    save_file(make.models()["clip"].state_dict(), folder / "clip_l.safetensors")
    weights.load_t5(folder / "model.safetensors")
