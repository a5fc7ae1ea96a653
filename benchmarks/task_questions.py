"""Write recipes/tasks/*.jsonl: questions with a right answer, the same question corrupted, and the answer to that.

Word lists and templates are ours. A corrupted prompt differs in what decides the answer only and has as many tokens,
so that activations can be patched position by position; its own right answer is the clean question's wrong one. What
the embedded model cannot be asked in this form (answers with the same first token, lengths that differ) is left out.

    python benchmarks/task_questions.py
"""

# ruff: noqa: SIM905 (word lists are read as lines of words)

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trimtab.steering.model.embedded import embedded_folder

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "tasks"
Row = dict[str, str]
Asked = tuple[int, tuple[str, str]]  # which template, (subject, answer)

CAPITALS = dict(
    pair.split("=")
    for pair in (
        "France=Paris,Italy=Rome,Spain=Madrid,Germany=Berlin,Japan=Tokyo,China=Beijing,Russia=Moscow,Egypt=Cairo,"
        "Greece=Athens,Portugal=Lisbon,Austria=Vienna,Poland=Warsaw,Hungary=Budapest,Ireland=Dublin,Norway=Oslo,"
        "Sweden=Stockholm,Finland=Helsinki,Denmark=Copenhagen,Belgium=Brussels,Canada=Ottawa,Cuba=Havana,Peru=Lima,"
        "Chile=Santiago,Turkey=Ankara,Iran=Tehran,Iraq=Baghdad,Syria=Damascus,Lebanon=Beirut,Kenya=Nairobi,"
        "Thailand=Bangkok,Vietnam=Hanoi,Indonesia=Jakarta,Ukraine=Kiev,Romania=Bucharest,Bulgaria=Sofia,"
        "Serbia=Belgrade,Croatia=Zagreb,Jordan=Amman,Qatar=Doha,Nepal=Kathmandu,Venezuela=Caracas,Ethiopia=Addis Ababa,"
        "Switzerland=Bern,England=London,Taiwan=Taipei,Tunisia=Tunis,Algeria=Algiers,Libya=Tripoli,Ghana=Accra,"
        "Nigeria=Abuja,Colombia=Bogota,Philippines=Manila,Bangladesh=Dhaka,Afghanistan=Kabul,Argentina=Buenos Aires"
    ).split(",")
)
ANTONYMS = dict(
    pair.split("=")
    for pair in (
        "hot=cold,big=small,good=bad,happy=sad,up=down,left=right,fast=slow,early=late,open=closed,rich=poor,"
        "young=old,strong=weak,light=dark,high=low,hard=soft,full=empty,day=night,true=false,clean=dirty,win=lose,"
        "love=hate,black=white,long=short,wide=narrow,near=far,inside=outside,above=below,before=after,first=last,"
        "more=less,wet=dry,loud=quiet,thick=thin,deep=shallow,sharp=dull,heavy=light,buy=sell,push=pull,start=stop,"
        "north=south,east=west,male=female,positive=negative,maximum=minimum,increase=decrease,success=failure,"
        "internal=external,active=passive,public=private,expensive=cheap,safe=dangerous,alive=dead,winter=summer,"
        "right=wrong,over=under,gain=loss,birth=death,war=peace,friend=enemy,tall=short,accept=reject,input=output,"
        "majority=minority,major=minor,past=future,top=bottom,front=back,simple=complex,easy=difficult,odd=even"
    ).split(",")
)
PLURALS = dict(
    pair.split("=")
    for pair in (
        "cat=cats,dog=dogs,house=houses,tree=trees,book=books,car=cars,bird=birds,river=rivers,chair=chairs,"
        "table=tables,flower=flowers,apple=apples,child=children,man=men,woman=women,foot=feet,tooth=teeth,"
        "city=cities,country=countries,baby=babies,lady=ladies,story=stories,leaf=leaves,wolf=wolves,knife=knives,"
        "life=lives,box=boxes,bus=buses,class=classes,wish=wishes,church=churches,day=days,boy=boys,girl=girls,"
        "horse=horses,ship=ships,king=kings,teacher=teachers,doctor=doctors,student=students,letter=letters,"
        "number=numbers,window=windows,door=doors,garden=gardens,hand=hands,eye=eyes,friend=friends,army=armies,"
        "family=families,party=parties,company=companies,berry=berries,penny=pennies,fox=foxes,"
        "watch=watches,brush=brushes,star=stars,stone=stones,road=roads,bridge=bridges,song=songs,year=years"
    ).split(",")
)
MONTHS = tuple("January February March April May June July August September October November December".split())
NAMES = tuple(
    "Mary John Tom James Sarah Anna Peter Paul Mark David Alice Emma Jack Kate Laura Lucy Henry Robert Michael Daniel "
    "Jane Susan Simon George Martin Frank Helen Julia Rachel Steven".split()
)
PLACES = tuple("store park school office library station market garden hospital restaurant".split())
THINGS = tuple("book drink letter ring gift flower ticket key bag map".split())
WORDS = tuple(
    "apple river stone music table green winter paper silver garden window summer orange doctor bridge coffee forest "
    "letter market mirror number ocean pencil planet rocket school shadow spring street sugar ticket tiger tower "
    "village water wheel wood yellow iron horse house island king lake light milk moon night olive party queen rain "
    "salt ship snow sun train tree valley wall wind wine wolf".split()
)


def main() -> None:
    """Write every file, and say how many rows each has."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    makers: dict[str, Callable[[PreTrainedTokenizerBase], list[Row]]] = {
        "capitals": lambda t: lookup(t, CAPITALS, capitals),
        "antonyms": lambda t: lookup(t, ANTONYMS, antonyms),
        "plural": lambda t: lookup(t, PLURALS, plurals),
        "months": months,
        "induction": induction,
        "ioi": ioi,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        rows = make(tokenizer)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} questions")


def capitals(words: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Templates with the subject left open, by name."""
    return {
        "sentence": " ".join(f"The capital of {a} is {b}." for a, b in words[:2]) + " The capital of {} is",
        "list": "".join(f"{a}: {b}\n" for a, b in words) + "{}:",
        "question": "".join(f"Q: What is the capital of {a}?\nA: {b}\n" for a, b in words[:2])
        + "Q: What is the capital of {}?\nA:",
    }


def antonyms(words: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The same for opposites."""
    return {
        "sentence": " ".join(f"The opposite of {a} is {b}." for a, b in words[:3]) + " The opposite of {} is",
        "list": "".join(f"{a} - {b}\n" for a, b in words) + "{} -",
        "arrow": "Opposites: " + ", ".join(f"{a} and {b}" for a, b in words) + ", {} and",
    }


def plurals(words: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The same for plurals."""
    return {
        "count": "; ".join(f"one {a}, two {b}" for a, b in words[:3]) + "; one {}, two",
        "list": "".join(f"Singular: {a}. Plural: {b}.\n" for a, b in words[:3]) + "Singular: {}. Plural:",
        "many": "".join(f"I saw one {a}, then many {b}.\n" for a, b in words[:3]) + "I saw one {}, then many",
    }


def lookup(tokenizer, table: dict[str, str], templates: Callable) -> list[Row]:
    """Every word in one template, and some once more in another."""
    draw = random.Random(0)
    numbered = list(enumerate(table.items()))
    asked = [*numbered, *[(number + 1, pair) for number, pair in draw.sample(numbered, 24)]]
    made = [asked_about(tokenizer, table, (number % 3, pair), templates, draw) for number, pair in asked]
    return [row for row in made if row is not None]


def asked_about(tokenizer, table: dict[str, str], about: Asked, templates: Callable, draw: random.Random) -> Row | None:
    """One question, corrupted by another word of as many tokens; its examples hold neither of the two, nor answers."""
    number, (subject, answer) = about
    others = [pair for pair in table.items() if pair[0] != subject and pair[1] != answer]
    draw.shuffle(others)
    for other, wrong in others:
        rest = [pair for pair in others if not {*pair} & {other, wrong, subject, answer}][:4]
        name, form = list(templates(rest).items())[number]
        row = {"prompt": form.format(subject), "answer": answer, "corrupted": form.format(other), "wrong": wrong}
        if fits(tokenizer, row):
            return {**row, "template": name}
    return None


def months(tokenizer) -> list[Row]:
    """Runs of months from every start, corrupted by the run that starts elsewhere."""
    rows = []
    for start in range(12):
        for template, shift in (("run2", 5), ("run3", 3), ("run4", 7), ("run5", 4), ("arrow", 6), ("list", 2)):
            clean, wrong = month_text(template, start), month_text(template, (start + shift) % 12)
            row = {"prompt": clean[0], "answer": clean[1], "corrupted": wrong[0], "wrong": wrong[1]}
            if fits(tokenizer, row):
                rows.append({**row, "template": template})
    return rows


def month_text(template: str, start: int) -> tuple[str, str]:
    """A prompt and the month that follows."""
    run = [MONTHS[(start + k) % 12] for k in range(6)]
    if template.startswith("run"):
        n = int(template[3:])
        return "Months of the year: " + ", ".join(run[:n]) + ",", run[n]
    if template == "arrow":
        return f"{run[0]} -> {run[1]}\n{run[1]} -> {run[2]}\n{run[2]} ->", run[3]
    return f"A list of months:\n{run[0]}\n{run[1]}\n{run[2]}\nThe next month is", run[3]


def induction(tokenizer) -> list[Row]:
    """A line of unrelated words, begun once more. Corrupted: the word behind the repeated one and a later one changed
    places, so that both answers stand in both prompts, and copying any word of the line does not tell them apart."""
    draw, rows = random.Random(2), []
    usable = [word for word in WORDS if len(tokenizer(" " + word)["input_ids"]) == 1]
    for number in range(80):
        words = draw.sample(usable, 5 + number % 4)
        at = draw.randrange(1, len(words) - 2)
        other = draw.randrange(at + 2, len(words))
        changed = list(words)
        changed[at + 1], changed[other] = words[other], words[at + 1]
        times = 1 + number % 2
        template = ("once", "twice")[number % 2]
        lead = ("", "Words: ", "List of items: ", "Repeat: ")[number // 2 % 4]
        texts = [lead + " ".join(line * times + line[: at + 1]) for line in (words, changed)]
        row = {"prompt": texts[0], "answer": words[at + 1], "corrupted": texts[1], "wrong": words[other]}
        if fits(tokenizer, row):
            rows.append({**row, "template": template})
    return rows


def ioi(tokenizer) -> list[Row]:
    """Who was given it: the one of two names that did not act. Corrupted: the other one acted."""
    draw, rows = random.Random(3), []
    for number in range(80):
        a, b = draw.sample(NAMES, 2)
        place, thing = draw.choice(PLACES), draw.choice(THINGS)
        forms = {
            "then": f"Then, {a} and {b} went to the {place}. {{}} gave a {thing} to",
            "when": f"When {a} and {b} were at the {place}, {{}} decided to give a {thing} to",
            "after": f"After {a} and {b} left the {place}, {{}} handed a {thing} to",
            "lunch": f"Today {a} and {b} had lunch near the {place}. {{}} gave a {thing} to",
        }
        name = list(forms)[number % 4]
        actor, other = (a, b) if number % 8 < 4 else (b, a)
        row = {
            "prompt": forms[name].format(actor),
            "answer": other,
            "corrupted": forms[name].format(other),
            "wrong": actor,
        }
        if fits(tokenizer, row):
            rows.append({**row, "template": name})
    return rows


def fits(tokenizer, row: Row) -> bool:
    """As many tokens clean as corrupted, and answers that differ in their first token."""
    clean, corrupted = (tokenizer(row[key])["input_ids"] for key in ("prompt", "corrupted"))
    right, wrong = (tokenizer(" " + row[key])["input_ids"][0] for key in ("answer", "wrong"))
    return len(clean) == len(corrupted) and clean != corrupted and right != wrong


if __name__ == "__main__":
    main()
