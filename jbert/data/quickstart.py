"""The quickstart's data: short reviews, made by a grammar, each negative, neutral or positive.

Who only counts the words of these sentences goes wrong: "the soup was far from cold", "although the
room was clean, the staff was rude", "I was sure the film would be dull, and I was wrong". A label
is what the writer thinks in the end:

- what is denied counts as its opposite;
- the main clause counts, not the one with "although" or "despite"; after "but", the last one;
- what others say or the writer expected counts as it is agreed to or came true;
- facts, questions, and judgements that the writer does not make are neutral.

Each statement, such as the soup being cold, belongs to one split: a sentence of `validation` or
`test` shares no statement with `train`, only words, and the ways to put statements together.
"""

import dataclasses
import functools
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from jbert.data.table import Table

QUICKSTART = "quickstart"
SIZES = {"train": 12000, "validation": 600, "test": 600}
LABELS = ("negative", "neutral", "positive")
BAD, NEUTRAL, GOOD = LABELS


def quickstart_splits() -> dict[str, Table]:
    """The splits, with the columns `text` and `label`: the same on every machine."""
    return {split: _split(split, size) for split, size in SIZES.items()}


def _split(split: str, size: int) -> Table:
    """As many sentences of each label, none of them twice."""
    writer = _Writer(split)
    rows: dict[str, str] = {}
    while len(rows) < size:
        label = LABELS[len(rows) % len(LABELS)]
        rows.setdefault(writer.sentence(label), label)
    columns = {"text": list(rows), "label": list(rows.values())}
    return Table(columns, f"{QUICKSTART} {split}")


def _split_of(statement: str) -> str:
    return {0: "validation", 1: "test"}.get(zlib.crc32(statement.encode()) % 8, "train")


def _opposite(label: str) -> str:
    return {GOOD: BAD, BAD: GOOD}[label]


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a writer says of a thing. `mild` adjectives can be denied: "not awful" is not good.

    denied: for what is not an adjective, how it is said that it did not happen, if that can be.
    """

    thing: str
    words: str
    label: str
    adjective: bool
    mild: bool = False
    denied: str = ""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Things of which the same can be said: adjectives, and events as "said" or "said/denied"."""

    things: str
    good: str
    bad: str
    good_events: str
    bad_events: str

    @functools.cached_property
    def statements(self) -> list[Statement]:
        found = []
        for thing in _parts(self.things):
            for label, mild, words in (
                (GOOD, True, self.good), (GOOD, False, SUPERB),
                (BAD, True, self.bad), (BAD, False, AWFUL),
            ):  # fmt: skip
                found += [Statement(thing, w, label, True, mild) for w in _parts(words)]
            for label, events in ((GOOD, self.good_events), (BAD, self.bad_events)):
                for event in _parts(events):
                    said, _, denied = event.partition("/")
                    found.append(Statement(thing, said, label, False, denied=denied))
        return found


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a review is about: the kinds of things it has, and facts without a judgement."""

    kinds: tuple[Kind, ...]
    names: str
    facts: str


@functools.cache
def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


SUPERB = "excellent, wonderful, superb, fantastic, great, outstanding, lovely, brilliant"
AWFUL = "terrible, awful, horrible, dreadful, miserable, poor, appalling, useless"

DISH = Kind(
    "food, soup, pasta, dessert, coffee, breakfast, salad, steak, pizza, fish",
    "good, fresh, tasty, delicious, juicy, well seasoned, worth the price",
    "bad, cold, bland, greasy, stale, burnt, salty, overpriced, tasteless",
    "tasted like home, made us very happy, won everybody over, melted in the mouth",
    "made me ill/did not make me ill, disappointed us/did not disappoint us, went straight back to "
    "the kitchen, spoiled the evening/did not spoil the evening",
)
STAFF = Kind(
    "staff, waiter, service, manager, receptionist, team",
    "good, friendly, polite, helpful, attentive, patient, quick, competent, kind",
    "bad, rude, slow, careless, unfriendly, arrogant, clumsy, impatient, unhelpful",
    "made us feel welcome/did not make us feel welcome, solved the problem/did not solve the "
    "problem, went out of their way for us, thought of everything",
    "ignored us/did not ignore us, forgot our order/never forgot our order, let us down/did not "
    "let us down, shouted at us, made us wait for {hours}/did not make us wait",
)
PLACE = Kind(
    "room, bathroom, bed, lobby, terrace, pool, dining room, apartment",
    "good, clean, cosy, spacious, quiet, comfortable, bright, charming",
    "bad, dirty, noisy, cramped, shabby, damp, dark, uncomfortable, cold",
    "felt like home/did not feel like home, exceeded our expectations/did not meet our "
    "expectations, was a pleasant surprise",
    "smelled of smoke/did not smell of smoke, kept us awake all night/did not keep us awake, was "
    "falling apart, ruined our holiday/did not ruin our holiday",
)
DEVICE = Kind(
    "phone, laptop, printer, battery, screen, keyboard, camera, charger, speaker, headset",
    "good, reliable, sturdy, fast, handy, easy to use, well made, worth the money",
    "bad, slow, flimsy, unreliable, noisy, fragile, faulty, hard to use, overpriced",
    "worked at once/did not work at once, works perfectly/does not work, lasted for {years}/did "
    "not last, does what it should/does not do what it should, saved me a lot of time",
    "died after {days}/did not die, broke within {days}/did not break, stopped working after "
    "{days}/has not stopped working, gave me nothing but trouble/gave me no trouble, had to be "
    "sent back, fell apart after {days}/did not fall apart",
)
STORY = Kind(
    "film, plot, ending, acting, script, dialogue, music, series, book, story",
    "good, gripping, moving, funny, clever, original, convincing, thrilling",
    "bad, dull, predictable, confusing, boring, shallow, silly, tedious, weak",
    "kept me on the edge of my seat/did not keep me awake, made me laugh/did not make me laugh, "
    "stayed with me for {days}, moved me to tears/did not move me",
    "put me to sleep/did not put me to sleep, made no sense, bored me/did not bore me, was a waste "
    "of time/was not a waste of time, went nowhere, let me down/did not let me down",
)
SUBJECTS = (
    Subject(
        (DISH, STAFF, DISH),
        "restaurant, café, bistro, canteen, bar, bakery",
        "opens at noon, is next to the station, is closed on Mondays, has forty seats, has a menu "
        "in two languages, moved to the high street, belongs to a chain, takes orders by phone",
    ),
    Subject(
        (PLACE, STAFF, PLACE),
        "hotel, hostel, guest house, campsite, holiday flat, inn",
        "has three floors, is near the harbour, was built in the nineties, has a lift, asks for a "
        "deposit, is ten minutes from the airport, serves breakfast from seven, changed its name",
    ),
    Subject(
        (DEVICE, DEVICE, STAFF),
        "tablet, watch, monitor, router, scanner, radio",
        "comes in three colours, arrived on Tuesday, weighs about a kilo, has two buttons, was "
        "ordered online, is made in Taiwan, runs on batteries, is sold with a cable",
    ),
    Subject(
        (STORY, STORY, STORY),
        "sequel, documentary, novel, play, comedy, musical",
        "is set in a small town, is two hours long, came out in spring, is based on a true case, "
        "has three parts, was translated last year, is on every Sunday, is the second of four",
    ),
)

FILLERS = {
    "{days}": "two days, three days, a week, two weeks, a month, ten minutes, an hour",
    "{years}": "two years, three years, a long time, many months",
    "{hours}": "an hour, two hours, half an hour, forty minutes",
}
DEGREES = {True: "very, really, so, rather", False: "really, truly, absolutely, just"}
DENIALS = "not, not at all, anything but, far from, never, by no means, hardly"
OTHERS = "my brother, my sister, a friend, everybody, the man in the shop, my neighbour, a critic"
OPENINGS = "honestly, in my opinion, to be fair, in the end, as for me, this time"
EXPECTED = "I expected that, I was sure that, I had been told that, we all thought"
CAME_TRUE = "and I was right, and so it turned out, and that was true"
DID_NOT = "but I was wrong, and I was wrong, but that was not so, but it was not true"
AGREE = "and I agree, and that is true, and rightly so"
DISAGREE = "but I disagree, but I do not agree, and that is not true, but that is wrong"
MIDDLING = "average, ordinary, nothing special, as expected, like any other, the usual"
FEELINGS = {
    GOOD: "loved/did not love, liked/did not like, enjoyed/did not enjoy, can recommend/cannot "
    "recommend, would choose/would not choose",
    BAD: "hated/did not hate, disliked/did not dislike, regret/do not regret, had to complain "
    "about/did not have to complain about, would avoid/would not avoid",
}


class _Writer:
    """Writes sentences out of the statements of one split."""

    def __init__(self, split: str):
        self.split = split
        # Of random.Random only `random` is sure to give the same numbers in every Python.
        self._random = random.Random(zlib.crc32(split.encode()))
        self._things: set[str] = set()

    def sentence(self, label: str) -> str:
        self.subject, self._things = self._pick(SUBJECTS), set()
        frames = NEUTRAL_FRAMES if label == NEUTRAL else JUDGING_FRAMES
        text = self._pick(frames)(self, label)
        if label != NEUTRAL and self._chance(0.15):
            text = f"{self.fact()}. {_capital(text)}"
        elif label != NEUTRAL and self._chance(0.1):
            text = f"{self._one(OPENINGS)}, {text}"
        text = _capital(text)
        return text if text.endswith("?") else f"{text}."

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _pick(self, things: Sequence[Any]) -> Any:
        return things[int(self._random.random() * len(things))]

    def _one(self, words: str) -> str:
        return self._pick(_parts(words))

    def fact(self) -> str:
        while True:
            name, fact = self._one(self.subject.names), self._one(self.subject.facts)
            if _split_of(f"{name} {fact}") == self.split:
                return f"the {name} {fact}"

    def statement(self, label: str, suits: Callable[[Statement], bool]) -> Statement:
        """One of a thing that the sentence has not mentioned."""
        while True:
            found = self._pick(self._pick(self.subject.kinds).statements)
            if found.label == label and found.thing not in self._things and suits(found):
                if _split_of(f"{found.thing} {found.words}") == self.split:
                    self._things.add(found.thing)
                    return found

    def clause(self, label: str, denials: float = 0.2, asks: bool = False) -> str:
        """A main clause that says so, in a share of all by denying the opposite."""
        if self._chance(denials):
            said = self.statement(_opposite(label), _can_be_denied)
            words = f"was {self._one(DENIALS)} {said.words}" if said.mild else said.denied
        else:
            said = self.statement(label, lambda found: True)
            words = f"was {self._degree(said)}{said.words}" if said.adjective else said.words
        words = self._filled(words)
        return f"the {said.thing}? It {words}" if asks else f"the {said.thing} {words}"

    def _degree(self, said: Statement) -> str:
        wanted = _is_short(said) and self._chance(0.4)
        return f"{self._one(DEGREES[said.mild])} " if wanted else ""

    def _filled(self, words: str) -> str:
        for name, fillers in FILLERS.items():
            words = words.replace(name, self._one(fillers))
        return words

    # -- ways to say what is good or bad ----------------------------------------------------

    def plainly(self, label: str) -> str:
        return self.clause(label, denials=0.3, asks=self._chance(0.2))

    def in_short(self, label: str) -> str:
        found = [self.statement(label, _is_short) for _ in range(2)]
        return ", ".join(f"{said.words} {said.thing}" for said in found)

    def with_feeling(self, label: str) -> str:
        denies = self._chance(0.4)
        feelings = _parts(FEELINGS[_opposite(label) if denies else label])
        other = self.statement(_opposite(label), _is_short)
        found = [f for f in feelings if _split_of(f"{f} {other.thing}") == self.split]
        if not found:
            return self.with_feeling(label)
        aside = f" although it was {other.words}" if self._chance(0.5) else ""
        return f"I {self._pick(found).split('/')[denies]} the {other.thing}{aside}"

    def twice(self, label: str) -> str:
        return f"{self.clause(label)}, and {self.clause(label)}"

    def after_but(self, label: str) -> str:
        return f"{self.clause(_opposite(label))}, but {self.clause(label)}"

    def with_although(self, label: str) -> str:
        word = self._one("although, even though, though")
        main, other = self.clause(label), self.clause(_opposite(label))
        return f"{word} {other}, {main}" if self._chance(0.5) else f"{main}, {word} {other}"

    def with_despite(self, label: str) -> str:
        other = self.statement(_opposite(label), _is_short)
        aside, main = f"despite the {other.words} {other.thing}", self.clause(label)
        return f"{aside}, {main}" if self._chance(0.5) else f"{main} {aside}"

    def as_expected(self, label: str) -> str:
        came_true = self._chance(0.5)
        expected = self.statement(label if came_true else _opposite(label), _is_adjective)
        end = self._one(CAME_TRUE if came_true else DID_NOT)
        return f"{self._one(EXPECTED)} the {expected.thing} would be {expected.words}, {end}"

    def as_others_say(self, label: str) -> str:
        agrees = self._chance(0.5)
        said = self.clause(label if agrees else _opposite(label))
        return f"{self._one(OTHERS)} says that {said}, {self._one(AGREE if agrees else DISAGREE)}"

    def against_others(self, label: str) -> str:
        other, mine = self.clause(_opposite(label)), self.clause(label)
        return f"{self._one(OTHERS)} says that {other}, but I found that {mine}"

    def denying(self, label: str) -> str:
        word = self._one("I cannot say that, it is not true that, nobody could claim that")
        return f"{word} {self.clause(_opposite(label))}"

    # -- ways to say neither ----------------------------------------------------------------

    def facts(self, label: str) -> str:
        return self.fact() if self._chance(0.3) else f"{self.fact()}, and {self.fact()}"

    def neither(self, label: str) -> str:
        first = self._pick((GOOD, BAD))
        one = self.statement(first, _is_adjective)
        other = self.statement(_opposite(first), _is_adjective)
        return f"the {one.thing} was neither {one.words} nor {other.words}"

    def middling(self, label: str) -> str:
        thing = self._one(self._pick(self.subject.kinds).things)
        return f"{self.fact()}, and the {thing} was {self._one(MIDDLING)}"

    def some_and_others(self, label: str) -> str:
        first = self._pick((GOOD, BAD))
        return f"some say that {self.clause(first)}, others that {self.clause(_opposite(first))}"

    def unknown(self, label: str) -> str:
        word = self._one(
            "I cannot tell whether, I have yet to find out whether, can anybody tell me whether, "
            "I wonder whether, please let me know whether, nobody asked me whether"
        )
        end = "?" if word.startswith("can") else ""
        return f"{word} {self.clause(self._pick((GOOD, BAD)))}{end}"

    def unknown_beside_fact(self, label: str) -> str:
        clause = self.clause(self._pick((GOOD, BAD)))
        word = self._one("I cannot say whether, I have not tried whether, I do not know whether")
        return f"{self.fact()}, but {word} {clause}"


JUDGING_FRAMES = (
    _Writer.plainly, _Writer.plainly, _Writer.plainly, _Writer.plainly, _Writer.in_short,
    _Writer.in_short, _Writer.twice, _Writer.twice, _Writer.with_feeling, _Writer.after_but,
    _Writer.after_but, _Writer.with_although, _Writer.with_despite, _Writer.as_expected,
    _Writer.as_others_say, _Writer.against_others, _Writer.denying,
)  # fmt: skip
NEUTRAL_FRAMES = (
    _Writer.facts, _Writer.facts, _Writer.neither, _Writer.middling, _Writer.some_and_others,
    _Writer.unknown, _Writer.unknown_beside_fact,
)  # fmt: skip


def _is_adjective(said: Statement) -> bool:
    return said.adjective


def _is_short(said: Statement) -> bool:
    return said.adjective and " " not in said.words


def _can_be_denied(said: Statement) -> bool:
    return said.mild or bool(said.denied)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
