"""Interleaved rounds: A B C A B C …, each turn on a machine that does nothing else."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import idle
from benchmarks.channel import Channel, Failed, Unsupported, channel
from benchmarks.workloads import Workload

# Rounds that something else disturbed are made again, until there were this many times as many.
MOST = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a workload is measured.

    fresh:    a new process for every turn, for a device that one process at a time can hold.
    patience: seconds that may be waited for an idle machine, over all turns.
    """

    rounds: int = 5
    seconds: float = 1.0
    patience: float = 300.0
    fresh: bool = False


@dataclasses.dataclass
class Contender:
    """One contender's part: facts of its building, a turn for each round, or why there is none."""

    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: str = ""


def measure(
    work: Workload, commands: Mapping[str, list[str]], plan: Plan, say: Callable[[str], None]
) -> dict[str, Any]:
    """All contenders on one workload; the turns of a round have the same place in each list."""
    return measure_each(dict.fromkeys(commands, work), commands, plan, say)


def measure_each(
    works: Mapping[str, Workload], commands: Mapping[str, list[str]], plan: Plan,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The same where each contender has a workload of its own, of one mode."""
    with contextlib.ExitStack() as stack:
        return Comparison(works, commands, plan, say, stack).run()


class Comparison:
    def __init__(self, works, commands, plan: Plan, say, stack: contextlib.ExitStack):
        self.works, self.commands, self.plan, self.say = works, commands, plan, say
        self.found = {name: Contender() for name in commands}
        self.patience, self.stack = plan.patience, stack
        self.cold = any(work.mode == "cold" for work in works.values())
        self.fresh = plan.fresh or self.cold
        self.channels: dict[str, Channel] = {}

    def run(self) -> dict[str, Any]:
        for name in () if self.fresh else self.commands:
            self.channels[name] = self.stack.enter_context(channel(self.commands[name]))
            self._build(name, self.channels[name])
        disturbed = 0
        # Once there is no hope of enough quiet rounds, noisy ones are better than none.
        for left in reversed(range(self.plan.rounds * MOST)):
            turns = {name: self._turn(name) for name in self.commands if self._takes_part(name)}
            turns = {name: turn for name, turn in turns.items() if turn is not None}
            spoilt = any(turn["others"] > idle.UNDISTURBED for turn in turns.values())
            if spoilt and left >= self.plan.rounds - self._rounds():
                disturbed += 1
                continue
            for name, turn in turns.items():
                self.found[name].turns.append(turn)
            if not turns or self._rounds() >= self.plan.rounds:
                break
        for one in self.found.values():
            one.turns = [] if one.left_out else one.turns
        plain = {name: dataclasses.asdict(one) for name, one in self.found.items()}
        return {"disturbed": disturbed, **plain}

    def _takes_part(self, name: str) -> bool:
        return not self.found[name].left_out

    def _rounds(self) -> int:
        return min(len(one.turns) for n, one in self.found.items() if self._takes_part(n))

    def _build(self, name: str, opened: Channel) -> None:
        mine = self.found[name]
        try:
            mine.facts = opened.ask("build", work=dataclasses.asdict(self.works[name]))
        except Unsupported as error:
            mine.left_out = str(error)
        except Failed as error:
            mine.left_out = f"failed: {error}"
            self.say(f"  {name} failed: {error}")
        else:
            self.say(f"  {name}: first call after {mine.facts['first_seconds']:.1f} s")

    def _turn(self, name: str) -> dict[str, Any] | None:
        """One turn, with how long the machine was waited for and what others took of it."""
        waited, quiet = idle.wait(self.patience)
        self.patience -= waited
        with contextlib.ExitStack() as stack:
            opened = self.channels.get(name)
            if opened is None:
                opened = stack.enter_context(channel(self.commands[name]))
                self._build(name, opened)
            if not self._takes_part(name):
                return None
            facts = {"waited": waited, "quiet": quiet}
            if self.cold:
                return {"calls": [self.found[name].facts["first_seconds"]], "others": 0.0, **facts}
            busy, start = idle.busy_seconds(), time.perf_counter()
            try:
                turn = opened.ask("turn", seconds=self.plan.seconds)
            except Failed as error:
                self.found[name].left_out = f"failed: {error}"
                self.say(f"  {name} failed: {error}")
                return None
            wall = time.perf_counter() - start
            others = idle.share(busy, idle.busy_seconds(), turn["cpu"], wall)
            return {**turn, "others": others, **facts}
