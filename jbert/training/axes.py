"""Scales of a chart: its range, round numbers to label it with, and how numbers are written."""

import math
from typing import NamedTuple

import numpy as np

# A range whose ends agree to so many digits is drawn as one value.
SAME = 1e-9
# Where the largest value is so many times the smallest, a linear axis shows the largest alone.
LOGARITHMIC = 1e3


class Axis(NamedTuple):
    low: float
    high: float
    ticks: list[float]
    logarithmic: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends, from 0 to 1."""
        if self.logarithmic:
            low, high = math.log10(self.low), math.log10(self.high)
            return (np.log10(values) - low) / (high - low)
        return (values - self.low) / (self.high - self.low)


def step_axis(steps: np.ndarray) -> Axis:
    low, high = float(steps.min()), float(steps.max())
    if 0 <= low <= high / 5:
        low = 0.0
    if low == high:
        return Axis(low - 1, high + 1, [low])
    return Axis(low, high, round_ticks(low, high, 5, smallest=1.0))


def value_axis(values: np.ndarray, from_zero: bool = False, may_be_log: bool = False) -> Axis:
    """An axis for finite values."""
    low, high = float(values.min()), float(values.max())
    if may_be_log and low > 0 and high / low > LOGARITHMIC:
        return _log_axis(low, high)
    if from_zero and low >= 0:
        low = 0.0
    if high - low <= SAME * max(abs(low), abs(high)):
        margin = abs(high) / 10 or 1.0
    else:
        # Space for the line's own width.
        margin = (high - low) / 20
    low, high = low if from_zero and low == 0 else low - margin, high + margin
    return Axis(low, high, round_ticks(low, high, 5))


def _log_axis(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 6))
    ticks = [10.0**power for power in range(first, last + 1, stride)]
    return Axis(10.0**first, 10.0**last, ticks, True)


def round_ticks(low: float, high: float, count: int, smallest: float = 0.0) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    stride = next((m * power for m in (1, 2, 5) if m * power >= rough * 0.999), 10 * power)
    stride = max(stride, smallest)
    first, last = math.ceil(low / stride - 1e-9), math.floor(high / stride + 1e-9)
    return [number * stride for number in range(first, last + 1)]


def tick_labels(axis: Axis) -> list[str]:
    """All ticks of an axis, with as many digits as tell them apart."""
    ticks = axis.ticks
    if axis.logarithmic:
        return [f"{tick:g}" if 1e-3 <= tick < 1e4 else _scientific(tick, 0) for tick in ticks]
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest == 0:
        return [short(tick) for tick in ticks]
    stride = min((b - a for a, b in zip(ticks, ticks[1:], strict=False)), default=largest)
    if largest >= 1e15 or largest < 1e-3:
        digits = max(0, math.floor(math.log10(largest)) - math.floor(math.log10(stride) + 1e-9))
        return [_scientific(tick, digits) for tick in ticks]
    # Four digits are shorter than what a suffix makes of them.
    sizes = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    _, size, suffix = next(row for row in sizes if largest >= row[0])
    decimals = max(0, -math.floor(math.log10(stride / size) + 1e-9))
    return [f"{tick / size:.{decimals}f}{suffix}" if tick else "0" for tick in ticks]


def _scientific(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short(value: float) -> str:
    """A single number in four significant digits."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    if abs(value) >= 1e7 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 0:
        return short(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
