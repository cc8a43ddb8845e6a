"""Schedules: the values at their corners, their units, and errors."""

import pytest

from pyro_vae.objectives import ConstantSchedule, CyclicalSchedule, LinearWarmUp, Schedule


def test_constant_ignores_progress():
    schedule = ConstantSchedule(0.25)
    assert [schedule(0, 0.0), schedule(7, 0.5), schedule(10**9, 1e6)] == [0.25, 0.25, 0.25]


def test_constant_is_one_by_default():
    assert ConstantSchedule()(3, 0.1) == 1.0


@pytest.mark.parametrize(
    ("epoch", "value"), [(0.0, 0.2), (1.0, 0.3), (4.0, 0.6), (7.0, 0.9), (8.0, 1.0), (8.5, 1.0), (1e6, 1.0)]
)
def test_linear_warm_up_at_its_corners(epoch, value):
    assert LinearWarmUp(8, start=0.2)(step=123, epoch=epoch) == pytest.approx(value, abs=1e-15)


def test_linear_warm_up_can_go_down():
    schedule = LinearWarmUp(10, start=4.0, end=1.0)
    assert [schedule(0, e) for e in (0.0, 5.0, 10.0, 20.0)] == [4.0, 2.5, 1.0, 1.0]


@pytest.mark.parametrize("cls", [LinearWarmUp, CyclicalSchedule])
def test_the_unit_selects_the_counter(cls):
    steps, epochs = cls(200, unit="steps"), cls(200, unit="epochs")
    for progress in (0, 10, 50, 199, 200, 330, 10_000):
        assert steps(step=progress, epoch=0.0) == epochs(step=0, epoch=float(progress))
        assert steps(step=progress, epoch=1e6) == steps(step=progress, epoch=0.0)
        assert epochs(step=10**9, epoch=float(progress)) == epochs(step=0, epoch=float(progress))
    assert steps(step=50, epoch=0.0) != steps(step=0, epoch=50.0)


@pytest.mark.parametrize("cls", [LinearWarmUp, CyclicalSchedule])
def test_epochs_by_default(cls):
    assert cls(10)(step=10**6, epoch=0.0) == 0.0


@pytest.mark.parametrize(
    ("epoch", "value"),
    # One cycle: a line over 0.25 * 8 = 2 epochs, then 6 epochs at the end.
    [(0.0, 0.1), (1.0, 0.5), (2.0, 0.9), (7.75, 0.9), (8.0, 0.1), (9.0, 0.5), (10.0, 0.9), (15.75, 0.9)],
)
def test_cyclical_at_its_corners(epoch, value):
    schedule = CyclicalSchedule(8, rising=0.25, start=0.1, end=0.9, cycles=2)
    assert schedule(step=0, epoch=epoch) == pytest.approx(value, abs=1e-15)


def test_cyclical_stays_at_the_end_after_its_cycles():
    schedule = CyclicalSchedule(8, rising=0.25, start=0.1, end=0.9, cycles=2)
    assert [schedule(0, e) for e in (16.0, 16.5, 24.0, 1e5)] == [0.9] * 4


def test_cyclical_without_end():
    schedule = CyclicalSchedule(8, rising=0.25, cycles=None)
    assert [schedule(0, 8e4 + e) for e in (0.0, 1.0, 2.0, 7.5)] == [0.0, 0.5, 1.0, 1.0]


def test_cyclical_with_rising_one_is_a_saw():
    schedule = CyclicalSchedule(4, rising=1.0, cycles=None, unit="steps")
    assert [schedule(step, 0.0) for step in range(9)] == [0.0, 0.25, 0.5, 0.75, 0.0, 0.25, 0.5, 0.75, 0.0]


def test_one_cycle_is_a_warm_up():
    cyclical, linear = CyclicalSchedule(20, rising=0.5, cycles=1), LinearWarmUp(10)
    assert all(cyclical(0, e) == linear(0, e) for e in (0.0, 0.3, 5.0, 9.99, 10.0, 19.9, 20.0, 300.0))


@pytest.mark.parametrize("length", [0, -3, float("nan")])
@pytest.mark.parametrize("cls", [LinearWarmUp, CyclicalSchedule])
def test_length_must_be_positive(cls, length):
    message = rf"^{cls.__name__}: length must be (positive and finite|a number), got length={length}\."
    with pytest.raises(ValueError, match=message):
        cls(length)


@pytest.mark.parametrize("rising", [0, -0.5, 1.01, float("nan")])
def test_rising_is_a_fraction(rising):
    with pytest.raises(
        ValueError, match=rf"^CyclicalSchedule: rising must be (in \(0, 1\]|a number), got rising={rising}\."
    ):
        CyclicalSchedule(10, rising=rising)


@pytest.mark.parametrize("cls", [LinearWarmUp, CyclicalSchedule])
def test_an_unknown_unit_raises(cls):
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: unit must be"):
        cls(10, unit="epoch")


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Schedule()
