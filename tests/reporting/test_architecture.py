from __future__ import annotations

import pytest

from secateur.reporting.architecture import picture


def test_modules_stand_in_the_order_of_the_model_with_a_column_for_each_kind_of_units() -> None:
    units = {
        "feature_extractor.3.channels": (300, 512),
        "layers.0.attention.heads": (7, 12),
        "layers.0.feed_forward.units": (1000, 3072),
        "layers.1.attention.heads": (12, 12),
        "layers.1.feed_forward.units": (0, 3072),
        "width": (600, 768),
    }
    found = picture(units)
    assert [str(bar) for bar in found.front] == [
        "features 3 channels: 300 of 512 kept (59%)",
        "width: 600 of 768 kept (78%)",
    ]
    assert [(c.module, c.what, c.size) for c in found.columns] == [
        ("attention", "heads", 12),
        ("feed-forward", "units", 3072),
    ]
    assert [[module.gone for module in layer.modules] for layer in found.layers] == [
        [False, False],
        [False, True],
    ]
    assert found.losses == "Removed as a whole: 1 module."


def test_a_layer_that_lacks_a_module_leaves_its_place_empty() -> None:
    units = {
        "layers.0.conv.channels": (1, 2),
        "layers.0.attention.heads": (1, 2),
        "layers.1.attention.heads": (2, 2),
    }
    second = picture(units).layers[1]
    assert [(module.name, module.column) for module in second.modules] == [("attention", 1)]


def test_a_module_without_units_is_drawn_whole_or_gone() -> None:
    found = picture(
        {"layers.0": (1, 1), "layers.0.conv": (1, 1), "layers.1": (1, 1), "layers.1.conv": (0, 1)}
    )
    assert [(layer.modules[0].gone, layer.modules[0].bars) for layer in found.layers] == [
        (False, ()),
        (True, ()),
    ]


@pytest.mark.parametrize("count", [(1, 0), (3, 2), (-1, 2)])
def test_numbers_of_units_that_cannot_be_are_refused(count: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="conv keeps"):
        picture({"layers.0.conv": count})
