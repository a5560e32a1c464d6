"""A model card says what was measured and made, and nothing else; whoever reads it can do what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cards import COMMIT, PROMPTS, REGISTRY, facts, lock_of, render, report
from huggingface_hub import ModelCard, ModelCardData
from linzoo_recipes.mini.export import export_single_file
from PIL import Image
from pushing import put_teacher

import linzoo
from linzoo.checkpoints.license import License
from linzoo.checkpoints.source import open_source
from linzoo.cli.main import main
from linzoo.distillation.document import read_recipe
from linzoo.hub.card_pictures import card_pictures, files_of
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub
from linzoo.validation.errors import ValidationError
from linzoo.validation.report.card import write_card_pictures
from tests.validation.report_sample import pictures, whole

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def metadata(text: str) -> ModelCardData:
    return ModelCard(text).data


def blocks(text: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(text) if found == language]


def commands(text: str) -> list[list[str]]:
    return [
        shlex.split(line) for block in blocks(text, "sh") for line in block.splitlines() if "linzoo " in line
    ]


class TestMetadata:
    def test_the_hub_is_told_what_it_is(self) -> None:
        found = metadata(render()).to_dict()
        assert (found["library_name"], found["pipeline_tag"]) == ("diffusers", "text-to-image")
        assert (found["base_model"], found["base_model_relation"]) == ("artist/emoji", "adapter")
        assert found["license"] == "cc-by-4.0"
        assert "license_name" not in found
        assert found["tags"] == ["linfusion", "linear-attention", "linzoo", "mini", "generalized-linear"]
        assert metadata(render(format="pipeline"))["base_model_relation"] == "finetune"

    def test_a_licence_that_is_not_on_the_hubs_list_has_a_name_and_a_link(self) -> None:
        text = render(license=License("other", "my-own", "https://example.org/licence", "declared"))
        found = metadata(text)
        assert (found.license, found.license_name, found.license_link) == (
            "other",
            "my-own",
            "https://example.org/licence",
        )
        assert "`my-own` ([text](https://example.org/licence)), declared." in text

    def test_the_model_index_has_what_was_measured_of_quality_and_nothing_else(self) -> None:
        results = metadata(render()).eval_results
        assert results is not None
        assert {each.metric_type: each.metric_value for each in results} == {
            "kd": 0.0123,
            "psnr": 24.6,
            "fid": 44.77,
        }
        kd, psnr, fid = results
        assert (kd.metric_name, kd.metric_args) == ("KD", {"bar": "at most 0.02"})
        assert psnr.metric_args == {"bar": "at least 20 dB"}
        assert fid.metric_args == {"detail": "by efficientnet-lite0"}
        for said in ("5 prompts", "25 steps", "guidance 4", "seeds from 3", "128x128", "float32 on a CPU"):
            assert said in kd.dataset_name

    @pytest.mark.parametrize("found", [None, report(suite="quick", measures=report()["measures"][:2])])
    def test_without_measured_quality_there_is_no_model_index_and_the_card_says_so(
        self, found: dict[str, Any] | None
    ) -> None:
        text = render(report=found)
        assert metadata(text).eval_results is None
        assert "model-index" not in text
        assert ("**Not validated**" if found is None else "**not measured**") in text
        assert "widget" not in metadata(text)

    def test_the_widget_shows_the_students_pictures_of_the_first_prompts_that_are_pushed(self) -> None:
        assert metadata(render())["widget"] == [
            {"text": prompt, "output": {"url": f"report/student-{number}.png"}}
            for number, prompt in enumerate(PROMPTS[:4], 1)
        ]
        few = metadata(render(pictures=("report/student-2.png",)))
        assert few["widget"] == [{"text": "fire", "output": {"url": "report/student-2.png"}}]

    def test_the_hub_takes_it(self, hub: FakeHub) -> None:
        ModelCard(render()).validate()
        assert [each.status for each in hub.requests] == [200]


class TestBody:
    def test_every_figure_stands_with_its_bar_and_whose_it_is(self) -> None:
        text = render()
        assert "| KD | 0.0123 | at most 0.02 (variant mini) | passed |" in text
        assert "| PSNR | 24.6 dB | at least 20 dB (who validated) | passed |" in text
        assert "| FID | 44.77 |  | measured | by efficientnet-lite0 |" in text
        assert "| LPIPS | not installed |" in text
        assert "<summary>Is it sound? None of 2 checks failed</summary>" in text

    def test_a_bar_that_fell_is_seen(self) -> None:
        found = report()
        found["measures"][2]["verdict"] = found["verdict"] = "failed"
        assert "| **failed** |" in render(report=found)
        assert "**Failed** in suite `quality`" in render(report=found)

    def test_a_figure_that_is_no_number_is_told_and_is_no_result(self) -> None:
        found = report()
        found["measures"][2] |= {"value": None, "verdict": "failed"}
        text = render(report=found)
        assert "| KD | not a number | at most 0.02 (variant mini) | **failed** |" in text
        assert [each.metric_type for each in metadata(text).eval_results or []] == ["psnr", "fid"]

    def test_it_tells_what_it_was_made_from_with_hashes(self) -> None:
        text, lock = render(), lock_of()
        for part in (lock["plan"], lock["init"], lock["distill"]["recipe"]):
            assert f"SHA-256 `{part['sha256']}`" in text
        for name, file in lock["source"]["files"].items():
            assert f"`{name}`, {file['bytes']:,} bytes, SHA-256 `{file['sha256']}`" in text
        assert f"[artist/emoji](https://huggingface.co/artist/emoji/tree/{COMMIT})" in text
        assert "10 of 10 self-attentions" in text
        assert "arXiv:2409.02097" in text

    def test_another_teacher_of_the_distillation_is_told(self) -> None:
        lock = lock_of(repo="hf://artist/emoji", commit=COMMIT)
        lock["distill"]["teacher"] = {"unet/other.safetensors": "f" * 64}
        text = render(lock=lock)
        assert f"* the teacher of the distillation: `unet/other.safetensors`, SHA-256 `{'f' * 64}`" in text
        assert ["linzoo", "distill", "mini-linfusion", "--teacher", "path/to/teacher"] in [
            each[:5] for each in commands(text)
        ]

    def test_limits_name_what_was_not_measured_or_cannot_be_done(self) -> None:
        assert "* Pictures were measured at 128x128 only." in render()
        config = facts().config
        modules = (replace(config.modules[0], mixer="gla"), *config.modules[1:])
        text = render(config=replace(config, modules=modules))
        assert "The official LinFusion code cannot read it, for its mixers: gla." in text
        assert metadata(text).tags[-2:] == ["generalized-linear", "gla"]

    def test_pictures_are_those_that_are_pushed(self) -> None:
        assert re.findall(r"!\[.*\]\((.*)\)", render()) == [
            "report/pictures.png",
            "report/kd-1.png",
            "report/kd-2.png",
        ]
        assert "![" not in render(pictures=())

    def test_nothing_in_it_depends_on_when_or_where_it_is_rendered(self) -> None:
        settings = {
            **report()["settings"],
            "prompts_file": "/home/me/secret/mine.txt",
            "real": "/home/me/cats",
        }
        found = report(
            settings=settings,
            checkpoint={"spec": "/home/me/out", "modules": 10},
            teacher={"spec": "/home/me/dream.safetensors"},
        )
        text = render(report=found)
        assert text == render(report=found)
        assert "5 prompts of mine.txt" in text
        assert "/home/me" not in text
        assert "2020-02-02" not in text


class TestCommands:
    def test_they_are_what_made_it(self) -> None:
        teacher, repo = f"hf://artist/emoji@{COMMIT}", "hf://tester/mini-linfusion"
        assert [each[:4] for each in commands(render())] == [
            ["linzoo", "generate", teacher, PROMPTS[0]],
            ["linzoo", "convert", teacher, "mini-linfusion"],
            ["linzoo", "distill", "mini-linfusion", "--teacher"],
            ["linzoo", "validate", repo, "--teacher"],
            ["linzoo", "verify", repo],
        ]

    @pytest.mark.parametrize("name", ["convert", "distill", "validate", "generate"])
    @pytest.mark.parametrize(
        "found", [None, report(), report(suite="quick", settings={**report()["settings"], "images": 0})]
    )
    def test_the_command_line_understands_them(self, name: str, found: dict[str, Any] | None) -> None:
        lock = lock_of()
        lock["linfusion"] = {"repo": "hf://someone/linear", "commit": COMMIT, "files": {}}
        lock["base"] = {"layout": "ldm", "files": {"v1-5.safetensors": {"bytes": 1, "sha256": "e" * 64}}}
        lock["init"] |= {"id": "delta", "dtype": "float16"}
        lock["detection"]["evidence"].append(
            {
                "about": "prediction_type",
                "source": "flag",
                "says": "v_prediction",
                "detail": "",
                "confidence": "certain",
            }
        )
        made = [each for each in commands(render(lock=lock, report=found)) if each[1] == name]
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        (parsed,) = [command.make_context(name, each[2:]).params for each in made]
        if name == "convert":
            assert parsed["prediction_type"] == "v_prediction"
            assert {str(value) for value in parsed.values()} >= {
                "float16",
                "delta",
                "v1-5.safetensors",
                f"hf://someone/linear@{COMMIT}",
            }

    def test_a_pipeline_is_validated_where_it_was_made(self) -> None:
        (validate,) = [each for each in commands(render(format="pipeline")) if each[1] == "validate"]
        assert validate[2] == "mini-linfusion-distilled/linfusion"

    def test_a_shipped_teacher_goes_by_its_name_and_a_local_file_by_its_own(self) -> None:
        shipped = render(
            lock=lock_of(), base_model=None, base_commit=None, teacher="mini, which ships with linzoo"
        )
        assert ["linzoo", "convert", "mini"] in [each[:3] for each in commands(shipped)]
        assert "No base model is named, for the teacher is mini, which ships with linzoo." in shipped
        assert metadata(shipped).base_model is None
        local = lock_of(layout="ldm", files={"dream.safetensors": {"bytes": 1, "sha256": "d" * 64}})
        text = render(lock=local, base_model=None, base_commit=None, teacher="a local file")
        assert ["linzoo", "convert", "dream.safetensors"] in [each[:3] for each in commands(text)]
        assert 'diffusers.StableDiffusionPipeline.from_single_file("dream.safetensors")' in text

    def test_a_single_file_on_the_hub_is_opened_at_its_commit(self) -> None:
        lock = lock_of(
            repo="hf://artist/emoji",
            commit=COMMIT,
            layout="ldm",
            files={"xl.safetensors": {"bytes": 1, "sha256": "d" * 64}},
        )
        text = render(lock=lock, variant=REGISTRY.variants.get_value("sdxl"))
        opened = (
            'teacher = huggingface_hub.hf_hub_download("artist/emoji", "{}xl.safetensors", revision="{}")\n'
            "pipe = diffusers.StableDiffusionXLPipeline.from_single_file(teacher)\n"
        )
        assert opened.format("", COMMIT) in text
        lock["source"]["file"] = "v2/xl.safetensors"
        text = render(lock=lock, variant=REGISTRY.variants.get_value("sdxl"))
        assert opened.format("v2/", COMMIT) in text
        named = f"hf://artist/emoji@{COMMIT}/v2/xl.safetensors"
        assert ["linzoo", "convert", named] in [each[:3] for each in commands(text)]

    def test_a_recipe_of_linzoos_own_is_named_and_any_other_is_on_the_card(self) -> None:
        own = REGISTRY.distill_recipes.get_value("mini").document.locate()
        lock = lock_of()
        for changes, named in (((), "mini"), (("seed=1",), "recipe.yaml")):
            recipe = read_recipe(own, overrides=changes)
            lock["distill"]["recipe"] = {"id": "mini", "sha256": recipe.sha256, "document": recipe.document}
            text = render(lock=lock)
            (distill,) = [each for each in commands(text) if each[1] == "distill"]
            assert distill[-2:] == ["--recipe", named]
            (shown,) = blocks(text, "yaml")
            assert read_recipe(shown).sha256 == recipe.sha256

    def test_a_conversion_alone_has_no_distillation(self) -> None:
        lock = lock_of()
        del lock["distill"]
        text = render(lock=lock)
        assert "distill" not in {each[1] for each in commands(text)}
        assert blocks(text, "yaml") == []

    def test_a_distillation_of_a_checkpoint_without_lock_file_tells_what_is_known(self) -> None:
        whole_lock = lock_of()
        lock = {key: whole_lock[key] for key in ("detection", "distill", "outputs", "tensors")}
        text = render(lock=lock, base_model=None, base_commit=None, teacher="a local file")
        assert "convert" not in {each[1] for each in commands(text)}
        assert ": 10 self-attentions of its UNet" in text


class TestPlugins:
    PLUGIN = """
from linzoo.plugin import CardSection, hookimpl

@hookimpl
def linzoo_card_sections(card):
    yield CardSection(title="Pruned | *teacher*", markdown=f"Made for {card.variant.id}.\\n<!-- linzoo:end -->\\nMore.")
"""

    def test_their_sections_come_last_and_cannot_end_ours(self, tmp_path: Path) -> None:
        (tmp_path / "extra.py").write_text(self.PLUGIN)
        registry = build_registry(entry_points=False, paths=[tmp_path / "extra.py"])
        text = render(registry=registry)
        assert text.endswith(
            "```\n\n## Pruned &#124; \\*teacher\\*\n\nMade for mini.\nMore.\n<!-- linzoo:end -->\n"
        )
        assert render(existing=text, registry=registry) == text


class TestPictures:
    def test_they_are_what_a_report_writes(self, tmp_path: Path) -> None:
        document = whole(tmp_path)
        written = set(write_card_pictures(document, tmp_path))
        found = card_pictures(document)
        assert {tmp_path / each.file for each in found if each.kind != "drawn"} == written
        drawn = [each for each in found if each.kind == "drawn"]
        assert [each.text for each in drawn] == [pair["title"] for pair in pictures(tmp_path, 4)]
        for each in drawn:
            assert Image.open(tmp_path / each.file).getpixel((0, 0)) == (
                30,
                30,
                220,
            )  # the student's are blue
        files = files_of(document, tmp_path)
        assert files == {each.path: tmp_path / each.file for each in found}

    def test_nothing_outside_the_report_is_published(self, tmp_path: Path) -> None:
        document = whole(tmp_path / "report")
        write_card_pictures(document, tmp_path / "report")
        (tmp_path / "private.png").write_bytes(b"")
        document["measures"][1]["pictures"][0]["student"] = "../private.png"
        with pytest.raises(ValidationError, match="lies outside"):
            files_of(document, tmp_path / "report")


@pytest.mark.parametrize("format", ["adapter", pytest.param("pipeline", marks=pytest.mark.slow)])
def test_the_snippet_draws_as_it_stands(hub: FakeHub, tmp_path: Path, format: str) -> None:
    """Copied from the card and run by a fresh process, which fetches everything from the Hub."""
    folder = open_source("mini-linfusion").path
    if format == "pipeline":
        from linzoo.hub.pipeline import write_pipeline

        write_pipeline(
            linzoo.inspect("mini"), folder, tmp_path / "made", registry=REGISTRY, max_shard_bytes=10**9
        )
        folder = tmp_path / "made"
    commit = put_teacher(hub)
    assert drawn_by_snippet(hub, tmp_path, folder, base_commit=commit, format=format).size == (128, 128)


@pytest.mark.slow
def test_the_snippet_opens_a_teacher_that_is_one_file_of_several(hub: FakeHub, tmp_path: Path) -> None:
    root = open_source("mini").path
    configs = {
        path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.suffix != ".safetensors"
    }
    like = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # whose configs diffusers takes for such a file
    hub.put(like, {name: path for name, path in configs.items() if path.is_file()})
    export_single_file(root, tmp_path / "mini.safetensors")
    file = "v1/mini.safetensors"
    commit = hub.put("artist/emoji", {file: tmp_path / "mini.safetensors", "other.safetensors": b""})
    source = {"repo": "hf://artist/emoji", "commit": commit, "file": file, "layout": "ldm"}
    lock = lock_of(**source, files={"mini.safetensors": {"bytes": 1, "sha256": "d" * 64}})
    folder = open_source("mini-linfusion").path
    assert drawn_by_snippet(hub, tmp_path, folder, base_commit=commit, lock=lock).size == (128, 128)


def drawn_by_snippet(hub: FakeHub, tmp_path: Path, folder: Path, **changes: Any) -> Image.Image:
    """The picture that the card's snippet draws in a fresh process."""
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    text = render(report=None, **changes)
    hub.put("tester/mini-linfusion", {**files, "README.md": text.encode()})
    (code,) = blocks(hub.read("tester/mini-linfusion", "README.md").decode(), "python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | hub.environment(tmp_path / "stranger"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        return picture.copy()
