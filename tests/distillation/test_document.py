"""Recipes as YAML: every fault at once with its place, presets, overrides, and the way back to text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.distillation.document import ResolvedRecipe, dump, read_recipe
from linzoo.distillation.errors import RecipeError
from linzoo.distillation.recipe import (
    Align,
    Calibrate,
    Data,
    Distill,
    Ema,
    FeatureLoss,
    Finish,
    GuidedLoss,
    Losses,
    OnPolicy,
    Optimizer,
    Recipe,
    Weight,
)

GOOD = """\
schema_version: 1
name: mine
variant: sd15
data:
  source: prompts.txt
distill:
  steps: 100
  batch: 8
  optimizer: {new: 1e-4, clip: null}
presets:
  8gb:
    gradient_checkpointing: true
    distill: {micro_batch: 1, optimizer: {name: adamw8bit}}
"""


def faults(text: str, **options: Any) -> list[str]:
    """What is wrong, a fault a line, without the head that counts them."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(text, **options)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 or lines[0] == f"recipe has {len(lines) - 1} faults"
    return [line.strip() for line in lines[len(lines) > 1 :]]


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_reads_a_document() -> None:
    found = read_recipe(GOOD)
    assert found.name == "mine"
    assert found.presets == ("8gb",)
    assert found.recipe.distill is not None
    assert found.recipe.distill.optimizer.new == 1e-4  # no text, as in YAML 1.1
    assert found.recipe.distill.optimizer.clip is None
    assert found.recipe.presets == {}


def test_names_all_faults_at_once_each_with_line_and_column() -> None:
    text = """\
schema_version: 1
name: mine
variant: sd15
data:
  kind: folderr
  source: one
  source: two
  size: [512, 510]
  sampling: {guidance: [9, 1]}
distill:
  stepz: 10
  batch: 8
  micro_batch: 3
  optimizer: {clip: yes}
seed: 1.5
"""
    assert faults(text) == [
        "recipe:5:3: data.kind: \"folderr\" is none of prompts, folder, huggingface, webdataset; did you mean 'folder'?",
        "recipe:7:3: data.source: is set twice, first on line 6",
        "recipe:8:15: data.size[1]: must be a multiple of 8, not 510",
        "recipe:9:14: data.sampling.guidance: a range goes from low to high, not from 9 to 1",
        "recipe:11:3: distill.stepz: unknown key; did you mean 'steps'?",
        "recipe:13:3: distill.micro_batch: 3 does not divide the batch of 8; 2 does",
        'recipe:14:15: distill.optimizer.clip: must be a number, not "yes"',
        "recipe:15:1: seed: must be a whole number, not 1.5",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch: 8", "batch: 0", "recipe:8:3: distill.batch: must be at least 1, not 0"),
        ("clip: null", "clip: .inf", "recipe:9:26: distill.optimizer.clip: must be a finite number"),
        ("clip: null", "clip: 0", "recipe:9:26: distill.optimizer.clip: must be more than 0, not 0"),
        ("clip: null", "betas: [0.9, 1]", "distill.optimizer.betas[1]: must be less than 1, not 1"),
        ("clip: null", "betas: [0.9]", "distill.optimizer.betas[1]: is missing"),
        ("name: mine", "name: 5", "recipe:2:1: name: must be text; put it in quotes, not 5"),
        ("name: mine", "name: ''", "recipe:2:1: name: must not be empty"),
        ("name: mine\n", "", "recipe:1:1: name: is missing: What it is called"),
        ("source: prompts.txt", "flip: true", "recipe:5:3: data.flip: is for pictures, but with kind prompts"),
        ("source: prompts.txt", "streaming: true", "data.streaming: only data of kind huggingface"),
        ("source: prompts.txt", "buckets: {step: 60}", "data.buckets.step: must be a multiple of 8, not 60"),
        ("distill:\n  steps: 100", "distill:\n  wrong: 1", "distill.wrong: unknown key; known here: steps, batch"),
        ("variant: sd15", "variant: sd15\nalign: 5", "align: must be a section with keys of its own, not 5"),
        ("variant: sd15", "variant: sd15\ncalibrate: {sharpness: []}", "calibrate.sharpness: must have at least 1"),
    ],
)  # fmt: skip
def test_says_what_would_be_right(old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in faults(changed(old, new)))


def test_a_key_that_is_missing_because_it_is_misspelled_is_one_fault() -> None:
    assert faults(changed("steps: 100", "stepz: 100")) == [
        "recipe:7:3: distill.stepz: unknown key; did you mean 'steps'?",
    ]


def test_a_recipe_without_stages_does_nothing() -> None:
    text = "schema_version: 1\nname: a\nvariant: mini\ndata: {source: a}\n"
    assert faults(text) == ["recipe:1:1: a recipe needs at least one stage: calibrate, align or distill"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "recipe:1:1: a recipe is a mapping of settings, such as 'schema_version: 1'; this is empty"),
        ("- a\n- b\n", "recipe:1:1: a recipe is a mapping of settings, such as 'schema_version: 1'; this is a list"),
        ("name: a\n\tseed: 1\n", "recipe:2:1: a tab cannot stand here; indent with spaces"),
        ("name: [1,\n", "recipe:2:1: this is no YAML: expected the node content"),
        ("name: a\nseed: &x 1\nsteps: *x\n", "recipe:3:8: this is no YAML: aliases (*name) are not read here"),
        ("name: a\n---\nname: b\n", "recipe:2:1: a second document ('---') begins here"),
        ("name: a\nseed: \x00\n", "recipe:2:7: the character #x0 is not allowed"),
        ("[" * 5000, "recipe:1:1: sections within sections without end"),
        ("name: a\n", "recipe:1:1: schema_version: is missing; add 'schema_version: 1'"),
        ("schema_version: 2\nnew_key: 1\n", "recipe:1:1: schema_version: 2 is newer than this linzoo reads (1)"),
        ("schema_version: '1'\n", 'recipe:1:1: schema_version: "1" is no version of recipes'),
        ("schema_version: true\n", "recipe:1:1: schema_version: true is no version of recipes"),
    ],
)  # fmt: skip
def test_text_that_is_no_recipe_is_one_fault(text: str, said: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(said)


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [x]", "!!binary aGk=", "!!timestamp 2020-01-01"]
)
def test_tags_are_refused(value: str) -> None:
    (fault,) = faults(changed("name: mine", f"name: {value}\nsummary: x"))
    assert fault.startswith("recipe:2:1: name: ")
    assert "is not allowed here" in fault


def test_values_that_cannot_be_are_faults() -> None:
    digits = "9" * 5000
    assert "seed" in faults(changed("name: mine", f"name: mine\nseed: {digits}"))[0]
    assert "cannot be read as a value" in faults(changed("name: mine", r'name: "\ud800"'))[0]


@pytest.mark.parametrize("word", ["no", "on", "2024-01-01", "1:30", "010", "0x10", "=", "<<"])
def test_words_that_old_yaml_takes_for_something_else_are_text(word: str) -> None:
    if word == "010":
        assert "must be text" in faults(changed("name: mine", f"name: {word}"))[0]
    else:
        assert read_recipe(changed("name: mine", f"name: {word}")).name == word


def test_a_preset_is_laid_over_the_document() -> None:
    plain, small = read_recipe(GOOD).recipe, read_recipe(GOOD, preset="8gb").recipe
    assert plain.distill is not None
    assert small.distill is not None
    assert (plain.distill.micro_batch, small.distill.micro_batch) == (None, 1)
    assert small.gradient_checkpointing
    assert small.distill.optimizer == Optimizer(name="adamw8bit", new=1e-4, clip=None)


def test_faults_of_presets_that_are_not_applied_are_found_with_their_lines() -> None:
    text = GOOD + "  16gb: {seed: x, variant: sdxl}\n  24gb: 5\n  80gb: {distill: {micro_batch: 3}}\n"
    assert faults(text) == [
        'recipe:14:10: seed: must be a whole number, not "x" (preset 16gb)',
        "recipe:14:19: presets.16gb.variant: no preset may change this",
        "recipe:15:3: presets.24gb: must be a section of settings, not 5",
        "recipe:16:20: distill.micro_batch: 3 does not divide the batch of 8; 2 does (preset 80gb)",
    ]


def test_a_preset_that_is_not_there_is_told_with_those_that_are() -> None:
    assert faults(GOOD, preset="8g") == ["--preset 8g: recipe has no such preset; did you mean '8gb'?"]


def test_overrides_are_stronger_than_document_and_preset() -> None:
    options = ["distill.micro_batch=2", "distill.ema={decay: 0.5}", "data.size=[768, 512]", "start=random"]
    found = read_recipe(GOOD, preset="8gb", overrides=options).recipe
    assert found.distill is not None
    assert (found.distill.micro_batch, found.distill.ema) == (2, Ema(decay=0.5))
    assert (found.data.size, found.start) == ((768, 512), "random")
    again = read_recipe(GOOD, overrides=["distill.steps=5", "distill.steps=6", "distill.ema="]).recipe
    assert again.distill is not None
    assert (again.distill.steps, again.distill.ema) == (6, None)


def test_faults_of_overrides_are_named_as_they_were_given() -> None:
    given = [
        "distill.stepz=3",
        "distill.steps=-1",
        "seed.x=3",
        "steps",
        "data.source=[",
        "name=x",
        "align.steps=5",
    ]
    assert sorted(faults(GOOD, overrides=given)) == [
        "--set align.steps=5: align.batch: is missing: Samples of one step, over all processes",
        "--set data.source=[: this is no YAML: expected the node content, but found '<stream end>' (while parsing a flow node)",
        "--set distill.steps=-1: distill.steps: must be at least 1, not -1",
        "--set distill.stepz=3: distill.stepz: unknown key; did you mean 'steps'?",
        "--set name=x: name cannot be set here; copy the recipe and edit it",
        '--set seed.x=3: seed: must be a whole number, not {"x": 3}',
        "--set steps: is not of the form section.key=value",
    ]  # fmt: skip


def test_an_override_does_not_mend_a_document() -> None:
    assert faults(changed("  batch: 8\n", ""), overrides=["distill.batch=8"]) == [
        "recipe:6:1: distill.batch: is missing: Samples of one step, over all processes"
    ]


def test_the_digest_is_of_the_settings_not_of_the_text() -> None:
    same = (
        "# a comment\n"
        + GOOD.replace("1e-4", "0.0001").replace("name: mine\n", "")
        + "name: 'mine'\nseed: 0\n"
    )
    assert read_recipe(same).sha256 == read_recipe(GOOD).sha256
    assert read_recipe(GOOD, overrides=["seed=1"]).sha256 != read_recipe(GOOD).sha256
    assert read_recipe(GOOD, preset="8gb").sha256 != read_recipe(GOOD).sha256


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*none\.yaml: No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match=r"is no text in UTF-8 \(byte 9\)"):
        read_recipe(tmp_path / "latin.yaml")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
numbers = st.floats(1e-12, 1e12)
shares = st.floats(0, 1)
counts = st.integers(1, 10**12)
weights = st.builds(Weight, start=numbers, end=st.none() | numbers)
optimizers = st.builds(
    Optimizer, new=numbers, inherited=numbers, weight_decay=shares, warmup=counts, clip=st.none() | numbers
)
losses = st.builds(
    Losses,
    noise=weights,
    kd=weights,
    features=st.none() | st.builds(FeatureLoss, weight=weights, normalize=st.booleans()),
    guided=st.none() | st.builds(GuidedLoss, share=shares),
)
sizes = st.tuples(st.just(64), st.integers(1, 100).map(lambda n: 8 * n))
recipes = st.builds(
    Recipe,
    schema_version=st.just(1),
    name=text,
    summary=text,
    variant=text,
    start=st.none() | text,
    seed=st.integers(0, 2**63),
    precision=st.sampled_from(["float32", "bfloat16"]),
    data=st.builds(Data, source=text, size=st.none() | sizes, caption_dropout=shares, cache=st.none() | text),
    calibrate=st.none() | st.builds(Calibrate, ridge=st.lists(numbers, max_size=3).map(tuple)),
    align=st.none() | st.builds(Align, steps=counts, batch=counts, optimizer=optimizers),
    distill=st.builds(
        Distill,
        steps=counts,
        batch=counts,
        optimizer=optimizers,
        loss=losses,
        on_policy=st.none() | st.builds(OnPolicy, share=shares, steps=counts),
        finish=st.none() | st.builds(Finish, sizes=st.lists(sizes, min_size=1, max_size=3).map(tuple)),
        ema=st.none() | st.just(Ema(device="cpu")),
    ),
)


@settings(deadline=None, max_examples=40)
@given(recipes)
def test_what_is_written_reads_as_the_same_recipe(recipe: Recipe) -> None:
    written = dump(recipe)
    found: ResolvedRecipe = read_recipe(written)
    assert found.recipe == recipe
    assert dump(found.recipe) == written


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_is_too_odd_for_an_error_with_a_place(odd: str) -> None:
    with pytest.raises(RecipeError, match=r"^recipe( has|:\d+:\d+: )"):
        read_recipe(odd)


def test_reading_recipes_does_not_import_torch() -> None:
    code = (
        "import sys, linzoo.distillation.document, linzoo.distillation.lookup\n"
        "print(sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
