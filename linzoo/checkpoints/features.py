"""The eight features that tell SD families apart, read from tensor shapes in either layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from linzoo.plugin import Fingerprint, SpecError

Shapes = Mapping[str, tuple[int, ...]]


def fingerprint_of(shapes: Shapes, *, ldm: bool) -> Fingerprint | None:
    """Read a UNet's fingerprint.

    Args:
        shapes: shapes by name inside the UNet (no prefix).
        ldm: whether the names are those of the LDM layout, else diffusers'.

    Returns:
        The fingerprint, or None where the tensors that show it are missing or of an impossible shape.
    """
    first = shapes.get("input_blocks.0.0.weight" if ldm else "conv_in.weight", ())
    transformers = [(place, _depth(shapes, place)) for place in _down(shapes, ldm)]
    attended = next((place for place, depth in transformers if depth), None)
    if attended is None:
        return None
    context = shapes[f"{attended}.transformer_blocks.0.attn2.to_k.weight"]
    projection = shapes.get(f"{attended}.proj_in.weight", ())
    if (len(first), len(context)) != (4, 2) or len(projection) not in (2, 4):
        return None
    try:
        return Fingerprint(
            channels=first[0],
            in_channels=first[1],
            context_dim=context[1],
            linear_projection=len(projection) == 2,
            depth=tuple(depth for _, depth in transformers),
            mid_depth=_depth(shapes, "middle_block.1" if ldm else "mid_block.attentions.0"),
            vector_dim=_width(shapes, "label_emb.0.0") if ldm else _vector_dim(shapes),
            hidden_dim=_width(shapes, "encoder_hid_proj"),
        )
    except SpecError:  # a width of zero
        return None


def _down(shapes: Shapes, ldm: bool) -> list[str]:
    """Where the transformer behind each residual block on the way down would stand."""
    if ldm:
        blocks = _count(
            lambda place: (
                f"input_blocks.{place + 1}.0.in_layers.0.weight" in shapes
                or f"input_blocks.{place + 1}.0.op.weight" in shapes
            )
        )
        places = range(1, blocks + 1)
        return [f"input_blocks.{n}.1" for n in places if f"input_blocks.{n}.0.in_layers.0.weight" in shapes]
    found = []
    for block in range(_count(lambda b: f"down_blocks.{b}.resnets.0.conv1.weight" in shapes)):
        resnets = _count(lambda r, b=block: f"down_blocks.{b}.resnets.{r}.conv1.weight" in shapes)  # type: ignore[misc]
        found += [f"down_blocks.{block}.attentions.{resnet}" for resnet in range(resnets)]
    return found


def _depth(shapes: Shapes, place: str) -> int:
    return _count(lambda index: f"{place}.transformer_blocks.{index}.attn2.to_k.weight" in shapes)


def _vector_dim(shapes: Shapes) -> int | None:
    added = _width(shapes, "add_embedding.linear_1")
    return added if added is not None else _width(shapes, "class_embedding.linear_1")


def _width(shapes: Shapes, module: str) -> int | None:
    """How many numbers a linear layer reads; None where there is no such layer."""
    shape = shapes.get(f"{module}.weight", ())
    return shape[1] if len(shape) == 2 else None


def _count(there: Callable[[int], bool]) -> int:
    number = 0
    while there(number):
        number += 1
    return number
