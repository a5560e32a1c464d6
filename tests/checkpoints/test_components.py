"""The bundled configs build the published models, offline, with CLIP's real vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linzoo.checkpoints.components import component_config, component_folder
from linzoo.checkpoints.vocabulary import VOCABULARY_SIZE, write_clip_vocabulary
from linzoo.registry import Registry, build_registry

VAE_PARAMETERS = 83_653_863
TEXT_PARAMETERS = {
    ("linzoo_sd15", "text_encoder"): 123_060_480,
    ("linzoo_sd21", "text_encoder"): 340_387_840,
    ("linzoo_sdxl", "text_encoder"): 123_060_480,
    ("linzoo_sdxl", "text_encoder_2"): 694_659_840,
}
PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sd15-inpaint": "StableDiffusionInpaintPipeline",
    "sd15-instruct-pix2pix": "StableDiffusionInstructPix2PixPipeline",
    "sd21": "StableDiffusionPipeline",
    "sd21-inpaint": "StableDiffusionInpaintPipeline",
    "sd21-instruct-pix2pix": "StableDiffusionInstructPix2PixPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-inpaint": "StableDiffusionXLInpaintPipeline",
    "sdxl-instruct-pix2pix": "StableDiffusionXLInstructPix2PixPipeline",
}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_vocabulary_gives_the_known_ids(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    write_clip_vocabulary(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == VOCABULARY_SIZE == 49408
    assert tokenizer("a photo of an astronaut").input_ids == [49406, 320, 1125, 539, 550, 18376, 49407]
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_vocabulary_follows_from_the_merges(tmp_path: Path) -> None:
    write_clip_vocabulary(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(vocabulary.values()) == list(range(49408))
    assert (merges[0], merges[1], len(merges)) == ("#version: 0.2", "i n", 48895)
    assert all("".join(merge.split()) in vocabulary for merge in merges[1:])


@pytest.mark.parametrize("name", PIPELINES)
def test_folder_of_a_variant(name: str, registry: Registry) -> None:
    import diffusers

    variant = registry.variants.get_value(name)
    for prediction_type, size in variant.native_size.items():
        with component_folder(variant, prediction_type) as folder:
            index = read(folder / "model_index.json")
            assert index["_class_name"] == PIPELINES[name]
            assert index["_class_name"] in dir(diffusers)
            unet = read(folder / "unet" / "config.json")
            assert unet["in_channels"] == variant.fingerprint.in_channels
            assert unet["sample_size"] == size // 8
            scheduler = read(folder / "scheduler" / "scheduler_config.json")
            assert scheduler["prediction_type"] == prediction_type
            assert scheduler["_class_name"] in dir(diffusers)
            tokenizers = [each.name for each in sorted(folder.glob("tokenizer*"))]
            assert tokenizers == [each for each in index if each.startswith("tokenizer")]
            for each in tokenizers:
                assert read(folder / each / "tokenizer_config.json")["model_max_length"] == 77
                assert len(read(folder / each / "vocab.json")) == 49408
                assert (folder / each / "merges.txt").is_file()
        assert not folder.exists()


@pytest.mark.parametrize(("name", "pads"), [("sd15", [49407]), ("sd21", [0]), ("sdxl", [49407, 0])])
def test_tokenizers_pad_as_published(name: str, pads: list[int], registry: Registry) -> None:
    from transformers import CLIPTokenizer

    with component_folder(registry.variants.get_value(name), "epsilon") as folder:
        found = [CLIPTokenizer.from_pretrained(each) for each in sorted(folder.glob("tokenizer*"))]
    assert [each.pad_token_id for each in found] == pads
    assert [len(each) for each in found] == [49408] * len(pads)
    assert [each.model_max_length for each in found] == [77] * len(pads)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_configs_build_models_of_the_published_size(name: str, registry: Registry) -> None:
    import diffusers
    import torch
    import transformers

    variant = registry.variants.get_value(name)
    with component_folder(variant, "epsilon") as folder, torch.device("meta"):
        scheduler = read(folder / "scheduler" / "scheduler_config.json")
        getattr(diffusers, scheduler["_class_name"]).load_config(folder, subfolder="scheduler")
        vae = diffusers.AutoencoderKL.from_config(read(folder / "vae" / "config.json"))
        assert vae.num_parameters() == VAE_PARAMETERS
        assert vae.config["scaling_factor"] == (0.13025 if name == "sdxl" else 0.18215)
        for encoder in sorted(folder.glob("text_encoder*")):
            config = transformers.CLIPTextConfig.from_pretrained(encoder)
            model = getattr(transformers, config.architectures[0])(config)
            assert model.num_parameters() == TEXT_PARAMETERS[f"linzoo_{name}", encoder.name]


def test_overrides_reach_the_config(registry: Registry) -> None:
    assert component_config(registry.variants.get_value("sdxl-inpaint"), "unet")["in_channels"] == 9
    assert component_config(registry.variants.get_value("sdxl"), "unet")["in_channels"] == 4
    assert (
        component_config(registry.variants.get_value("sd21"), "scheduler")["_class_name"] == "DDIMScheduler"
    )


def test_weights_that_lie_beside_the_configs_stay_where_they_are(registry: Registry) -> None:
    with component_folder(build_registry().variants.get_value("mini"), "epsilon") as folder:
        assert (folder / "unet" / "config.json").exists()
        assert list(folder.rglob("*.safetensors")) == []
