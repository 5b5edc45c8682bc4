"""The loop on least squares: no speech, a feed whose batches are drawn from their step, and a clock of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import SecateurError
from secateur.training import trainer as room
from secateur.training.checkpoint import read_state
from secateur.training.feed import Batch
from secateur.training.trainer import LOOKS, MOST_BROKEN, ORTHOGONAL, Length, Loop, Progress, Trainer

TRUTH = torch.tensor([1.0, -2.0, 0.5])


class Killed(BaseException):
    """What no code of ours catches, as SIGKILL."""


class Rows:
    """A feed of rows of least squares; what is to happen before a batch is handed out can be told."""

    def __init__(self, start: int, before: Callable[[int], object] = lambda _: None) -> None:
        self.step, self.before = start, before

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __next__(self) -> Batch:
        self.before(self.step)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(self.step))
        self.step += 1
        return Batch(self.step - 1, {"x": x, "y": x @ TRUTH}, [None] * 8, 1.0)


class LeastSquares:
    """Has weights, and like the multipliers of a search something that each step adds to."""

    def __init__(self, during: Callable[[int], object] = lambda _: None) -> None:
        self.weight, self.during = torch.zeros(3, requires_grad=True), during
        self.drag, self.shares, self.steps, self.skips = torch.zeros(()), [], 0, 0

    def loss(self, batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
        self.shares.append(share)
        told = self.during(batch.step)
        error = (batch.inputs["x"] @ self.weight - batch.inputs["y"]).square().mean()
        if isinstance(told, float):
            error = error * told
        return error + 1e-3 * self.drag * self.weight.sum(), {"error": float(error.detach())}

    def stepped(self) -> None:
        self.drag, self.steps = 0.9 * self.drag + 0.1, self.steps + 1

    def skipped(self) -> None:
        self.skips += 1

    def model_state(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach().clone()}

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])

    def state_dict(self) -> dict[str, Any]:
        return {"drag": self.drag}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drag = state["drag"]

    def distance(self) -> float:
        return float((self.weight.detach() - TRUTH).norm())


def trained(
    objective: LeastSquares,
    length: Length,
    *,
    before: Callable[[int], object] = lambda _: None,
    rate: float = 0.1,
    loop: Mapping[str, Any] | None = None,
    **others: Any,
) -> Trainer:
    trainer = Trainer(
        objective, [{"params": [objective.weight], "lr": rate}], Loop(length, **(loop or {})), **others
    )
    trainer.run(lambda start: Rows(start, before))  # type: ignore[arg-type, return-value]
    return trainer


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is written after every step."""
    write_always(monkeypatch)


def write_always(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(room, "CHECKPOINT_SECONDS", -1.0)
    patch.setattr(room, "CHECKPOINT_SHARE", float("inf"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the loop looks at; it stands still unless it is told."""
    clock = Clock()
    monkeypatch.setattr(room, "perf_counter", clock)
    return clock


def test_least_squares_are_found() -> None:
    objective = LeastSquares()
    trainer = trained(objective, Length(steps=300))
    assert objective.distance() < 0.01
    assert trainer.progress.step == objective.steps == 300
    errors = [row["error"] for row in trainer.progress.history]
    assert errors[-1] < 1e-3 * errors[0]


def test_rates_rise_first_and_fall_along_half_a_cosine_to_the_end() -> None:
    seen: dict[bool, list[float]] = {}
    for decays in (True, False):
        rates = seen.setdefault(decays, [])
        objective = LeastSquares()
        trainer = Trainer(
            objective,
            [{"params": [objective.weight], "lr": 0.2}],
            Loop(Length(steps=400), decays=decays),
            report=lambda *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"]),  # noqa: B023
        )
        trainer.run(Rows)  # type: ignore[arg-type]
    assert seen[False][:40] == pytest.approx([0.2 * step / 40 for step in range(1, 41)])
    assert set(seen[False][40:]) == {0.2}
    assert seen[True][200] == pytest.approx(0.1)
    assert seen[True][-1] < 1e-4
    assert seen[True][39] == max(seen[True])


@given(
    death=st.integers(1, 19),
    seldom=st.integers(1, 4),
    averaging=st.sampled_from([{}, {"averages": 0.8}, {"means_from": 0.25}]),
)
@settings(max_examples=16)
def test_killed_at_any_step_it_goes_on_to_the_same_weights_moments_and_figures(
    tmp_path_factory: pytest.TempPathFactory, death: int, seldom: int, averaging: dict[str, float]
) -> None:
    def kill(step: int) -> None:
        if step == death:
            raise Killed

    def run(path: Path | None, before: Callable[[int], object] = lambda _: None) -> Trainer:
        objective = LeastSquares()
        loop = {"validations": 5, "keeps_best": True, **averaging}
        return trained(
            objective,
            Length(steps=20),
            loop=loop,
            before=before,
            checkpoint=path,
            validate=lambda: abs(objective.distance() - 1.5),
        )

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        write_always(patch)
        write = Trainer._write

        def sometimes(self: Trainer) -> float:
            return write(self) if self.progress.step % seldom == 0 else 0.0

        patch.setattr(Trainer, "_write", sometimes)
        with pytest.raises(Killed):
            run(folder / "state.pt", kill)
        again = run(folder / "state.pt")
        straight = run(None)
    assert again.objective.steps == 20 - death // seldom * seldom  # type: ignore[attr-defined]
    mine, others = (each.optimizers[0].param_groups[0]["params"][0] for each in (again, straight))
    assert torch.equal(mine, others)
    assert again.objective.state_dict() == straight.objective.state_dict()
    for name, moment in straight.optimizers[0].state_dict()["state"][0].items():
        assert torch.equal(again.optimizers[0].state_dict()["state"][0][name], moment)
    assert again.progress.history == straight.progress.history
    assert again.progress.best is not None
    assert straight.progress.best is not None
    assert again.progress.best[0] == straight.progress.best[0]
    assert torch.equal(again.progress.best[1]["weight"], straight.progress.best[1]["weight"])


def test_a_phase_that_is_taken_up_after_its_last_step_takes_none(tmp_path: Path, every_step: None) -> None:
    state = tmp_path / "state.pt"
    first, second = LeastSquares(), LeastSquares()
    trained(first, Length(steps=10), checkpoint=state)
    trained(second, Length(steps=10), checkpoint=state)
    assert second.shares == []
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("step_seconds", [0.5, 2.0, 7.0])
def test_steps_are_planned_so_that_data_steps_and_validations_fit_the_time(
    clock: Clock, step_seconds: float
) -> None:
    def step(number: int) -> None:
        clock.passes(step_seconds if number > 2 else 3 * step_seconds)

    def validate() -> float:
        clock.passes(11.0)
        return 0.5

    objective = LeastSquares(during=step)
    trainer = trained(
        objective,
        Length(seconds=600.0),
        before=lambda _: clock.passes(0.25),
        loop={"validations": 3, "validations_after": 2},
        validate=validate,
    )
    took = clock.now - 100.0
    assert 578.0 - step_seconds - 0.25 <= took <= 578.0
    assert trainer.progress.spent == took
    assert sum("WER" in row for row in trainer.progress.history) == 4


def test_validations_fit_the_time_though_the_first_comes_after_the_last_look(clock: Clock) -> None:
    def validate() -> float:
        clock.passes(100.0)
        return 0.5

    trained(
        LeastSquares(during=lambda _: clock.passes(20.0)),
        Length(seconds=900.0),
        loop={"validations": 4, "validates_untrained": False},
        validate=validate,
    )
    # At 20 s a step 45 were planned, and the first validation came after 11.
    assert clock.now - 100.0 <= 900.0


def test_time_that_is_too_short_still_gives_some_steps(clock: Clock) -> None:
    trainer = trained(LeastSquares(during=lambda _: clock.passes(10.0)), Length(seconds=1.0))
    assert trainer.progress.step == trainer.progress.total == LOOKS[0]


def test_a_phase_whose_first_steps_are_slow_is_planned_anew(clock: Clock) -> None:
    steps = iter(range(10_000))
    objective = LeastSquares(during=lambda _: clock.passes(5.0 if next(steps) < 40 else 1.0))
    trainer = trained(objective, Length(seconds=2000.0))
    assert trainer.progress.step == trainer.progress.total == 2000 - 4 * 40
    assert trainer.progress.spent == 2000.0


def test_a_machine_that_slows_down_late_does_not_make_a_phase_longer(clock: Clock) -> None:
    steps = iter(range(10_000))
    objective = LeastSquares(during=lambda _: clock.passes(1.0 if next(steps) < 800 else 2.0))
    trainer = trained(objective, Length(seconds=2000.0))
    assert trainer.progress.step == trainer.progress.total
    assert trainer.progress.spent == pytest.approx(2000.0, abs=2.0)


def test_slow_steps_that_become_slower_are_looked_at_in_time(clock: Clock) -> None:
    steps = iter(range(10_000))
    objective = LeastSquares(during=lambda _: clock.passes(10.0 if next(steps) < 60 else 20.0))
    trainer = trained(objective, Length(seconds=2000.0))
    assert trainer.progress.step == trainer.progress.total < 192
    assert trainer.progress.spent == pytest.approx(2000.0, abs=20.0)


def test_a_quarter_of_the_steps_is_validated_once_though_there_turn_out_to_be_more(clock: Clock) -> None:
    steps = iter(range(10_000))
    objective = LeastSquares(during=lambda _: clock.passes(2.0 if next(steps) < 145 else 1.0))
    trainer = trained(objective, Length(seconds=1200.0), loop={"validations": 4}, validate=lambda: 0.5)
    validated = [row["step"] for row in trainer.progress.history if "WER" in row]
    assert trainer.progress.total is not None
    assert trainer.progress.total > 900
    assert len(validated) == 5
    assert validated[-1] == trainer.progress.total


def test_time_that_was_spent_before_an_interruption_counts_and_time_between_does_not(
    clock: Clock, tmp_path: Path, every_step: None
) -> None:
    def kill(step: int) -> None:
        if step == 30:
            raise Killed

    def run(before: Callable[[int], object]) -> Progress:
        objective = LeastSquares(during=lambda _: clock.passes(2.0))
        state = tmp_path / "state.pt"
        return trained(objective, Length(seconds=100.0), before=before, checkpoint=state).progress

    with pytest.raises(Killed):
        run(kill)
    clock.passes(5000.0)
    progress = run(lambda _: None)
    assert (progress.step, progress.spent, progress.before, progress.heard) == (50, 100.0, 60.0, 50.0)


@pytest.mark.parametrize("stopped_at", [20, 47, 120, 191])
def test_a_phase_that_was_stopped_takes_the_time_that_it_would_have_taken(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path, every_step: None, stopped_at: int
) -> None:
    """Though validations take long, and the first step after the interruption too."""
    slow = iter([0.0])

    def run(before: Callable[[int], object]) -> Progress:
        return trained(
            LeastSquares(during=lambda _: clock.passes(1.0 + next(slow, 0.0))),
            Length(seconds=1200.0),
            before=before,
            loop={"validations": 4},
            validate=lambda: clock.passes(30.0) or 1.0,
            checkpoint=tmp_path / "state.pt",
        ).progress

    straight = run(lambda _: None)
    assert straight.spent == 1200.0
    (tmp_path / "state.pt").unlink()

    def kill(step: int) -> None:
        if step == stopped_at:
            raise Killed

    with pytest.raises(Killed):
        run(kill)
    slow = iter([9.0])
    resumed = run(lambda _: None)
    assert (resumed.step, resumed.spent) == (straight.step - 9, 1200.0)


def test_a_phase_whose_length_is_not_known_yet_begins_anew(
    clock: Clock, tmp_path: Path, every_step: None
) -> None:
    def kill(step: int) -> None:
        if step == LOOKS[0] - 1:
            raise Killed

    with pytest.raises(Killed):
        trained(LeastSquares(), Length(seconds=9.0), before=kill, checkpoint=tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())


def test_speech_that_fails_costs_nothing_that_was_learned(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 5:
            raise SecateurError("the disk is gone")

    path = tmp_path / "state.pt"
    with pytest.raises(SecateurError, match="the disk is gone"):
        trained(LeastSquares(), Length(steps=9), before=fail, checkpoint=path)
    objective = LeastSquares()
    trained(objective, Length(steps=9), checkpoint=path)
    assert objective.steps == 4
    alone = LeastSquares()
    trained(alone, Length(steps=9))
    assert torch.equal(objective.weight, alone.weight)


def test_the_last_step_is_in_the_curve_however_many_there_are() -> None:
    progress = trained(LeastSquares(), Length(steps=2 * room.HISTORY + 1), loop={"validations": 0}).progress
    assert progress.history[-1]["step"] == 2 * room.HISTORY + 1
    assert len(progress.history) == room.HISTORY + 1


def test_the_share_that_is_done_rises_from_nothing_by_even_steps() -> None:
    objective = LeastSquares()
    trained(objective, Length(steps=8))
    assert objective.shares == [step / 8 for step in range(8)]


@pytest.mark.parametrize(
    ("steps", "validations", "expected"),
    [
        (100, 4, [0, 25, 50, 75, 100]),
        (11, 4, [0, 3, 6, 9, 11]),
        (3, 4, [0, 1, 2, 3]),
        (7, 1, [0, 7]),
        (7, 0, []),
    ],
)
def test_validations_are_spread_evenly_and_the_last_is_after_the_last_step(
    steps: int, validations: int, expected: list[int]
) -> None:
    objective = LeastSquares()
    loop = {"validations": validations}
    history = trained(objective, Length(steps=steps), loop=loop, validate=objective.distance).progress.history
    assert [row["step"] for row in history if "WER" in row] == expected


def test_a_validation_that_was_due_when_there_turn_out_to_be_fewer_steps_is_made_up_for(clock: Clock) -> None:
    steps = iter(range(10_000))
    objective = LeastSquares(during=lambda _: clock.passes(0.5 if next(steps) < LOOKS[0] else 6.0))
    trainer = trained(objective, Length(seconds=600.0), loop={"validations": 10}, validate=lambda: 0.5)
    validated = [row["step"] for row in trainer.progress.history if "WER" in row]
    # 1,200 steps were to come at first, 111 at the next look, after six slow ones: more than a tenth of them is done by then.
    assert trainer.progress.total == 111
    assert validated[:2] == [0, LOOKS[0] + 6]
    assert len(validated) == 11


def test_an_untrained_model_is_validated_only_where_that_tells_something() -> None:
    seen: dict[bool, list[float]] = {}
    for first in (True, False):
        loop = {"validations": 2, "validates_untrained": first}
        history = trained(LeastSquares(), Length(steps=10), loop=loop, validate=lambda: 0.5).progress.history
        seen[first] = [row["step"] for row in history if "WER" in row]
    assert seen == {True: [0, 5, 10], False: [5, 10]}


def test_a_group_that_is_orthogonal_moves_along_all_directions_alike_and_the_others_as_adam_does() -> None:
    gradient = torch.diag(torch.tensor([1.0, 0.3, 0.1]))

    class Linear(LeastSquares):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.zeros(3, 3, requires_grad=True)

        def loss(self, batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
            return (self.matrix * gradient).sum() + super().loss(batch, share)[0], {}

    objective = Linear()
    groups = [
        {"params": [objective.matrix], "lr": 0.2, ORTHOGONAL: True},
        {"params": [objective.weight], "lr": 0.1},
    ]
    Trainer(objective, groups, Loop(Length(steps=1), warm_up=1, decays=False)).run(Rows)  # type: ignore[arg-type]
    lengths = torch.linalg.svdvals(objective.matrix.detach())
    # Newton and Schulz are stopped early, within a third of orthogonal; the gradient's own lengths are 1 to 10.
    assert float(lengths[0] / lengths[-1]) < 2
    # As long as AdamW's steps are by experience: a fifth of the rate for an entry.
    assert float(objective.matrix.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.2, rel=0.3)
    assert objective.weight.detach().abs().tolist() == pytest.approx([0.1] * 3, rel=1e-3)


def test_rates_rise_as_long_as_they_are_told_to() -> None:
    rates: list[float] = []
    objective = LeastSquares()
    trainer = Trainer(
        objective,
        [{"params": [objective.weight], "lr": 0.2}],
        Loop(Length(steps=100), warm_up=20, decays=False),
        report=lambda *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"]),
    )
    trainer.run(Rows)  # type: ignore[arg-type]
    assert rates == pytest.approx([0.2 * min(1, step / 20) for step in range(1, 101)])


def test_rates_rise_in_a_quarter_of_the_steps_at_most() -> None:
    rates: list[float] = []
    objective = LeastSquares()
    trainer = Trainer(
        objective,
        [{"params": [objective.weight], "lr": 0.2}],
        Loop(Length(steps=20)),
        report=lambda *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"]),
    )
    trainer.run(Rows)  # type: ignore[arg-type]
    assert rates.index(max(rates)) == 4
    assert max(rates) > 0.8 * 0.2


def test_the_best_model_is_gone_back_to_only_where_it_is_asked_for() -> None:
    """And the last of those that are about as good, compared with the very best."""
    values = {keeps: [0.5, 0.2, 0.209, 0.213, 0.9] for keeps in (True, False)}
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    for keeps_best in (True, False):
        objective = LeastSquares()

        def validate(objective: LeastSquares = objective, keeps_best: bool = keeps_best) -> float:
            seen[keeps_best].append(objective.weight.detach().clone())
            return values[keeps_best].pop(0)

        loop = {"validations": 4, "keeps_best": keeps_best}
        best = trained(objective, Length(steps=40), loop=loop, validate=validate).progress.best
        assert torch.equal(objective.weight, seen[keeps_best][2 if keeps_best else -1])
        assert (best and (best.value, best.step)) == ((0.2, 20) if keeps_best else None)


def test_the_average_of_what_was_learned_is_validated_and_kept_and_not_learned_from() -> None:
    learned: dict[float, list[Tensor]] = {0.9: [], 0.0: []}
    validated: list[Tensor] = []
    kept = torch.empty(0)
    for averages, weights in learned.items():
        objective = LeastSquares()

        def now(objective: LeastSquares = objective) -> Tensor:
            return objective.weight.detach().clone()

        def validate(now: Callable[[], Tensor] = now) -> float:
            validated.append(now())
            return 0.0

        def report(*_: object, now: Callable[[], Tensor] = now, weights: list[Tensor] = weights) -> None:
            weights.append(now())

        loop = {"validations": 4, "averages": averages}
        trained(objective, Length(steps=40), loop=loop, validate=validate, report=report)
        kept = now() if averages else kept
    # Validations in between change nothing of what is learned.
    assert all(torch.equal(a, b) for a, b in zip(*learned.values(), strict=True))
    average = learned[0.9][0]
    for step, weight in enumerate(learned[0.9][1:], 1):
        stays = min(0.9, (step + 1) / (step + 10))
        average = stays * average + (1 - stays) * weight
        if (step + 1) % 10 == 0:
            torch.testing.assert_close(validated[(step + 1) // 10], average)
    torch.testing.assert_close(kept, average)


def test_the_mean_over_the_last_steps_is_validated_and_kept() -> None:
    objective = LeastSquares()
    weights: list[Tensor] = []
    validated: list[Tensor] = []

    def report(*_: object) -> None:
        weights.append(objective.weight.detach().clone())

    def validate() -> float:
        validated.append(objective.weight.detach().clone())
        return 0.0

    loop = {"validations": 4, "means_from": 0.25, "decays": False}
    trained(objective, Length(steps=40), loop=loop, validate=validate, report=report)
    before, *after, last = validated[1:]
    # Of the first quarter nothing is in it.
    assert torch.equal(before, weights[9])
    for quarter, mean in enumerate(after, 2):
        torch.testing.assert_close(mean, torch.stack(weights[10 : 10 * quarter]).mean(dim=0))
    torch.testing.assert_close(last, torch.stack(weights[10:]).mean(dim=0))
    assert torch.equal(objective.weight.detach(), last)


def test_a_model_that_training_only_harms_stays_as_it_was() -> None:
    objective = LeastSquares()
    wrong = iter(range(9))
    loop = {"keeps_best": True}
    trained(objective, Length(steps=20), loop=loop, validate=lambda: float(next(wrong)))
    assert torch.equal(objective.weight, torch.zeros(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_steps_whose_loss_is_not_finite_change_nothing_and_are_in_no_curve(value: float) -> None:
    broken = {3, 4, 8}
    weights: list[Tensor] = []
    objective = LeastSquares(during=lambda step: value if step in broken else 1.0)
    trainer = trained(
        objective, Length(steps=12), report=lambda *_: weights.append(objective.weight.detach().clone())
    )
    for step in range(1, 12):
        assert torch.equal(weights[step], weights[step - 1]) == (step in broken)
    assert (objective.steps, objective.skips) == (9, 3)
    assert float(trainer.optimizers[0].state_dict()["state"][0]["step"]) == 9
    assert [row["step"] - 1 for row in trainer.progress.history] == sorted(set(range(12)) - broken)


def test_a_loss_that_stays_broken_is_refused_in_a_sentence() -> None:
    last = 5 + MOST_BROKEN
    objective = LeastSquares(during=lambda step: float("nan") if 5 <= step < last - 1 else 1.0)
    trained(objective, Length(steps=30))
    objective = LeastSquares(during=lambda step: float("nan") if step >= 5 else 1.0)
    with pytest.raises(
        SecateurError, match=r"the loss is not a number any more, 10 steps in a row up to step 14"
    ) as caught:
        trained(objective, Length(steps=30))
    assert "\n" not in str(caught.value)


def test_gradients_are_clipped_together() -> None:
    lengths: list[float] = []
    objective = LeastSquares(during=lambda _: 1e6)
    parameters = [{"params": [objective.weight], "lr": 0.1}]
    trainer = Trainer(objective, parameters, Loop(Length(steps=3), clip=0.25))
    objective.stepped = lambda: lengths.append(float(objective.weight.grad.norm()))  # type: ignore[method-assign, union-attr]
    trainer.run(Rows)  # type: ignore[arg-type]
    assert lengths == pytest.approx([0.25] * 3)


def test_ctrl_c_waits_for_the_end_of_the_step_and_what_is_done_is_written(tmp_path: Path) -> None:
    def press(step: int) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    state, handler = tmp_path / "state.pt", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(LeastSquares(during=press), Length(steps=20), checkpoint=state)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_state(state)["step"] == 8
    again, straight = LeastSquares(), LeastSquares()
    trained(again, Length(steps=20), checkpoint=state)
    trained(straight, Length(steps=20))
    assert again.steps == 12
    assert torch.equal(again.weight, straight.weight)


@pytest.mark.parametrize("last", [6, 19])
def test_ctrl_c_is_not_forgotten_whenever_it_comes(tmp_path: Path, last: int) -> None:
    def press(progress: Progress, *_: object) -> None:
        if progress.step == last + 1:
            signal.raise_signal(signal.SIGINT)

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(LeastSquares(), Length(steps=20), checkpoint=state, report=press)
    assert read_state(state)["step"] == last + 1
    with pytest.raises(KeyboardInterrupt):
        trained(LeastSquares(), Length(steps=20), report=press)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def press(step: int) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    objective = LeastSquares(during=press)
    with pytest.raises(KeyboardInterrupt):
        trained(objective, Length(steps=20), checkpoint=tmp_path / "state.pt")
    assert objective.steps == 7
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_written_once_a_minute_and_less_often_where_they_take_long(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[float, int]] = []

    def write(path: Path, state: dict[str, Any]) -> None:
        written.append((clock.now - 100, state["step"]))
        clock.passes(0.1 if len(written) < 3 else 1.5)

    monkeypatch.setattr(room, "write_state", write)
    objective = LeastSquares(during=lambda _: clock.passes(1.0))
    trained(objective, Length(steps=400), checkpoint=tmp_path / "state.pt")
    # And at the end.
    assert [step for _, step in written] == [61, 122, 183, 334, 400]
