"""How often each picture is seen: a core of well-known things often, near-duplicates and symbols seldom."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

CORE = frozenset(
    name.strip()
    for name in [
        "\n    red apple",
        " green apple",
        " banana",
        " strawberry",
        " watermelon",
        " lemon",
        " pear",
        " pineapple",
        " cherries",
        " grapes",
        "\n    peach",
        " eggplant",
        " tomato",
        " carrot",
        " mushroom",
        " hamburger",
        " pizza",
        " french fries",
        " doughnut",
        " cookie",
        "\n    birthday cake",
        " cupcake",
        " ice cream",
        " hot beverage",
        " beer mug",
        " red heart",
        " orange heart",
        " yellow heart",
        "\n    green heart",
        " blue heart",
        " purple heart",
        " black heart",
        " broken heart",
        " grinning face",
        "\n    smiling face with sunglasses",
        " smiling face with heart eyes",
        " winking face",
        " crying face",
        " angry face",
        "\n    sleeping face",
        " face with tears of joy",
        " pile of poo",
        " ghost",
        " alien",
        " robot",
        " skull",
        " jack o lantern",
        "\n    dog face",
        " cat face",
        " rabbit face",
        " fox",
        " bear",
        " panda",
        " tiger face",
        " lion",
        " cow face",
        " pig face",
        " frog",
        "\n    monkey face",
        " penguin",
        " chicken",
        " hatching chick",
        " owl",
        " unicorn",
        " snail",
        " butterfly",
        " honeybee",
        " turtle",
        "\n    tropical fish",
        " spouting whale",
        " crab",
        " elephant",
        " snowman without snow",
        " sun",
        " full moon",
        " crescent moon",
        "\n    star",
        " cloud",
        " rainbow",
        " snowflake",
        " fire",
        " droplet",
        " high voltage",
        " umbrella",
        " rose",
        " sunflower",
        " tulip",
        "\n    cherry blossom",
        " maple leaf",
        " cactus",
        " palm tree",
        " evergreen tree",
        " christmas tree",
        " automobile",
        " taxi",
        " bus",
        "\n    fire engine",
        " bicycle",
        " rocket",
        " airplane",
        " sailboat",
        " house",
        " volcano",
        " soccer ball",
        " basketball",
        " guitar",
        "\n    balloon",
        " wrapped gift",
        " trophy",
        " crown",
        " gem stone",
        " key",
        " light bulb",
        " alarm clock",
        " hourglass done\n    ",
    ]
)
"""The things mini should draw well."""

_SELDOM = re.compile(
    r"^flag\b|\bflag$|^keycap|^letter |button$|\boclock$|\bthirty$|\barrow$|\bbanknote$|family|couple|kiss |holding hands"
    r"|\b(man|men|woman|women|person|people|adult|child|boy|girl|older person|pregnant|mx|mrs|merman|mermaid|baby)\b"
    r"|\b(elf|fairy|vampire|zombie|genie|mage|troll|superhero|supervillain|detective|guard|prince|princess)\b"
    r"|\b(worker|officer|cook|farmer|judge|mechanic|pilot|scientist|singer|student|teacher|technologist|artist)\b"
    r"|\b(firefighter|astronaut|santa|claus|skier|snowboarder|ninja|angel|hand|hands|fist|finger|index|thumbs)\b"
    r"|\b(square|circle|triangle|diamond|sign|symbol|japanese|squared|facing)\b"
)


def sampling_weights(names: Sequence[str], *, core: float = 0.7, seldom: float = 0.15) -> Tensor:
    """Return a probability for each picture, float64 (N,), summing to 1.

    Pictures whose name is in CORE share the part `core` evenly; among the others, people in all their variants,
    flags and symbols weigh `seldom` times as much as the rest.
    """
    is_core = torch.tensor([name in CORE for name in names])
    others = torch.tensor([seldom if _SELDOM.search(name) else 1.0 for name in names], dtype=torch.float64)
    others[is_core] = 0
    weights = (1 - core) * others / others.sum().clamp_min(1e-12)
    weights[is_core] = core / max(1, int(is_core.sum()))
    return weights / weights.sum()
