from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.pruning.refitting.capture import answering, capture


class Scale(nn.Module):
    """Multiplies by a keyword argument, answers with a pair, and counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor, by: float = 1.0) -> tuple[Tensor, None]:
        self.runs += 1
        return x * by, None


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = Scale(), Scale(), Scale()

    def forward(self, hidden_states: Tensor, fail: bool = False) -> Tensor:
        x, _ = self.first(hidden_states, by=2.0)
        if fail:
            raise ZeroDivisionError
        x, _ = self.second(x, by=3.0)
        return self.last(x)[0]


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def test_inputs_outputs_and_calls_are_seen() -> None:
    chain, x = Chain(), torch.ones(2)
    taps = {
        "in": (chain.second, "input"),
        "out": (chain.second, "output"),
        "call": (chain.first, "call"),
    }
    seen = capture(chain, {"hidden_states": x}, taps)
    assert seen["in"].tolist() == [2.0, 2.0]
    assert seen["out"].tolist() == [6.0, 6.0]
    (argument,), keywords = seen["call"]
    assert argument is x
    assert keywords == {"by": 2.0}


def test_an_input_that_is_given_by_name_is_seen_too() -> None:
    chain, x = Chain(), torch.ones(2)
    assert capture(chain, {"hidden_states": x}, {"x": (chain, "input")})["x"] is x
    assert capture(chain, {}, {"x": (chain, "input")}, x)["x"] is x


def test_the_pass_stops_once_everything_has_been_seen() -> None:
    chain = Chain()
    capture(chain, {"hidden_states": torch.ones(2)}, {"out": (chain.second, "output")})
    capture(chain, {"hidden_states": torch.ones(2)}, {"in": (chain.second, "input")})
    assert (chain.first.runs, chain.second.runs, chain.last.runs) == (2, 1, 0)


@pytest.mark.parametrize("tap", ["second", "nowhere"])
@pytest.mark.parametrize("fail", [False, True])
def test_nothing_stays_hooked_however_it_ends(tap: str, fail: bool) -> None:
    chain = Chain()
    taps = {"seen": (chain.second if tap == "second" else Scale(), "input")}
    call = {"hidden_states": torch.ones(2), "fail": fail}
    if fail:
        with pytest.raises(ZeroDivisionError):
            capture(chain, call, taps)
    elif tap == "nowhere":
        with pytest.raises(RuntimeError, match="did not reach seen"):
            capture(chain, call, taps)
    else:
        capture(chain, call, taps)
    assert hooks(chain) == hooks(taps["seen"][0]) == 0


def test_within_the_context_a_known_answer_stands_in_for_a_module() -> None:
    chain, x = Chain(), torch.ones(2)
    with answering({chain.second: (x * 10, None)}):
        assert chain(x).tolist() == [10.0, 10.0]
        assert chain.second.runs == 0
    assert chain(x).tolist() == [6.0, 6.0]
    with pytest.raises(ZeroDivisionError), answering({chain.first: (x, None)}):
        chain(x, fail=True)
    assert chain(x).tolist() == [6.0, 6.0]
