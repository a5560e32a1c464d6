"""What diffusers does with the Hub: pushing a model, loading it, variants and pull requests."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import HfApi
from tiny import tiny_sd, tiny_unet

from linzoo.testing.fake_hub import FakeHub

REPO = "tester/unet"
# diffusers 0.42 still gives huggingface_hub 2 an argument that it only warns about.
pytestmark = pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_model_is_pushed_and_loaded(hub: FakeHub, api: HfApi) -> None:
    unet = tiny_unet()
    unet.push_to_hub(REPO)
    assert {WEIGHTS, "config.json"} < set(hub.files(REPO))
    loaded = UNet2DConditionModel.from_pretrained(REPO)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in unet.state_dict().items())


def test_a_variant_comes_as_a_pull_request(hub: FakeHub, api: HfApi) -> None:
    unet = tiny_unet()
    unet.push_to_hub(REPO)
    unet.half().push_to_hub(REPO, variant="fp16", create_pr=True)
    variant = "diffusion_pytorch_model.fp16.safetensors"
    (pull_request,) = hub.pull_requests(REPO)
    assert variant not in hub.files(REPO)
    assert hub.files(REPO, pull_request.revision)[variant].size < hub.files(REPO)[WEIGHTS].size
    api.merge_pull_request(REPO, pull_request.num)
    assert UNet2DConditionModel.from_pretrained(REPO, variant="fp16", torch_dtype=torch.float16).dtype == (
        torch.float16
    )
    with pytest.raises(OSError, match="does not appear to have a file named"):
        UNet2DConditionModel.from_pretrained(REPO, variant="int8")


def test_a_pipeline_is_pushed_and_loaded(hub: FakeHub, api: HfApi) -> None:
    tiny_sd().push_to_hub("tester/pipeline")
    assert "unet/diffusion_pytorch_model.safetensors" in hub.files("tester/pipeline")
    pipe = StableDiffusionPipeline.from_pretrained("tester/pipeline", safety_checker=None)
    assert pipe.unet.config.cross_attention_dim == 32
