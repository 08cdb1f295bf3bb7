"""Near-duplicates share a group, whatever the order and however long the chain, and others do not."""

import json
import random
from itertools import combinations

import numpy as np
import pytest

from mlcore import duplicates, records
from mlcore.protocols import get

WORDS = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(600)]


def text(seed: int, n: int = 60) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def changed(words: list[str], n: int, seed: int) -> list[str]:
    """The words with n of them, side by side, replaced by others of their own."""
    start = random.Random(seed).randrange(len(words) - n)
    letters = "".join(chr(97 + int(digit)) for digit in str(seed))
    return words[:start] + [f"new{WORDS[i]}{letters}" for i in range(n)] + words[start + n :]


def groups(*texts, **more) -> list[int]:
    return duplicates.groups(
        [one if isinstance(one, str) else " ".join(one) for one in texts], **more
    ).tolist()


def jaccard(a: str, b: str) -> float:
    first, second = ({tuple(w[i : i + 4]) for i in range(len(w) - 3)} for w in (a.split(), b.split()))
    return len(first & second) / len(first | second)


def test_a_template_filled_in_many_ways_is_one_group_and_other_texts_none():
    template = text(1)
    assert groups(template, text(2), changed(template, 2, 3), text(4), changed(template, 3, 5)) == [
        0,
        1,
        0,
        3,
        0,
    ]


def test_case_numbers_and_punctuation_do_not_part():
    assert groups(
        "ON 3/4/2019 THE PUMP, LOT 8812, STOPPED AT NIGHT", "On 5/6/2021 the pump lot A9 stopped at night"
    ) == [0, 0]


def test_ties_are_closed_transitively():
    chain = [text(1, 100)]
    for i in range(30):
        chain.append(changed(chain[-1], 6, i))
    order = random.Random(3).sample(chain, len(chain))
    assert jaccard(" ".join(chain[0]), " ".join(chain[-1])) < 0.2
    assert set(groups(*order)) == {0}


def test_short_and_empty_texts_are_like_themselves_only():
    assert groups("", "pump", "Pump!", "", "pump broke", "…") == [0, 1, 1, 0, 4, 0]
    assert groups() == []


def test_an_owner_ties_texts_that_are_not_alike():
    assert groups(text(1), text(2), text(3), owners=["a", "b", "a"]) == [0, 1, 0]


def test_the_same_texts_give_the_same_groups_and_the_numbers_are_of_first_members():
    texts = [changed(text(i % 7), 3, i) for i in range(60)]
    found = groups(*texts)
    assert found == groups(*texts)
    assert found == [i % 7 for i in range(60)]


def test_ties_follow_the_jaccard_similarity_of_word_runs():
    """Of 200 pairs far from the threshold none is tied or parted wrongly; the naive twin counts the runs themselves."""
    pairs = [(words := text(i, 80), changed(words, 1 + i % 40, i)) for i in range(200)]
    right = []
    for first, second in pairs:
        likeness = jaccard(" ".join(first), " ".join(second))
        if abs(likeness - duplicates.LEAST) > 0.15:
            right.append((groups(first, second) == [0, 0]) == (likeness > duplicates.LEAST))
    assert len(right) > 100
    assert all(right)


def test_minima_estimate_the_share_of_common_shingles():
    first, second = " ".join(text(1, 200)), " ".join(changed(text(1, 200), 40, 2))
    a, b = (set(duplicates.shingles(one)) for one in (first, second))
    assert len(a & b) / len(a | b) == pytest.approx(jaccard(first, second), abs=0.01)
    minima = duplicates._signatures([first, second])
    assert (minima[0] == minima[1]).mean() == pytest.approx(len(a & b) / len(a | b), abs=0.13)


def test_a_thousand_of_one_template_among_others_take_no_quadratic_time(monkeypatch):
    compared = []
    ties = duplicates._ties
    monkeypatch.setattr(
        duplicates,
        "_ties",
        lambda first, s: compared.append((first != np.arange(len(first))).sum()) or ties(first, s),
    )
    texts = [" ".join(changed(text(1), 2, i)) for i in range(1000)] + [
        " ".join(text(i)) for i in range(50, 100)
    ]
    found = duplicates.groups(texts)
    assert len(set(found.tolist())) == 51
    assert sum(compared) <= len(texts) * duplicates.SIGNATURE / duplicates.ROWS


# In training


def labelled_file(folder, *rows):
    path = folder / "reports.jsonl"
    path.write_text("\n".join(rows))
    return path


def row(number, words, kind, group=""):
    told = {"report_number": number, "text": " ".join(words), "event_type": kind}
    return json.dumps(told | ({"group": group} if group else {}))


KINDS = ["Other", "Malfunction", "Injury", "Death"]


def test_a_file_without_groups_gets_them_where_the_unit_is_the_note(tmp_path):
    rows = [row(f"R{i}", changed(text(i % 4), 2, i), KINDS[i % 4]) for i in range(12)]
    rows.append(row("R0", text(99), "Other"))
    found = records.labelled(labelled_file(tmp_path, *rows), get("maude-severity-en"))
    names = [record.group for record in found.records]
    assert len(set(names[:4])) == 4 and names == [*(names[i % 4] for i in range(12)), names[0]]
    moved = records.labelled(
        labelled_file(tmp_path, row("R99", text(98), "Other"), *rows), get("maude-severity-en")
    )
    assert [record.group for record in moved.records[1:]] == names, "not named by where they stand"
    assert found.card() == {
        "near_duplicates": {
            "method": "MinHash of word shingles, closed transitively",
            "groups": 4,
            "largest": 4,
            "records_in_groups": 13,
        }
    }


def test_a_file_with_groups_keeps_them(tmp_path):
    rows = [row(f"R{i}", text(0), KINDS[i], group=f"g{i}") for i in range(4)]
    found = records.labelled(labelled_file(tmp_path, *rows), get("maude-severity-en"))
    assert [record.group for record in found.records] == ["g0", "g1", "g2", "g3"]
    assert found.card() is None


def test_patients_are_not_grouped_by_their_words(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"patient_id": "1", "notes": ["a b c d e"], "label": 0}\n{"patient_id": "2", "notes": ["a b c d e"], "label": 1}'
    )
    assert [one.group for one in records.load_labelled(path, get("hiv-suspicion-es"))] == ["", ""]


def pairs(names) -> set[tuple[int, int]]:
    held: dict = {}
    for i, name in enumerate(names):
        held.setdefault(name, []).append(i)
    return {pair for members in held.values() for pair in combinations(members, 2)}


@pytest.mark.campaign
def test_groups_found_beside_those_of_the_shared_file(shared_data):
    """Pairwise over the training reports: most that share a group there share one here; templates it parts are joined."""
    rows = records.load(shared_data / "maude_severity" / "train.jsonl.gz", get("maude-severity-en"))
    theirs = pairs(record.group for record in rows)
    ours = pairs(duplicates.groups([record.texts[0] for record in rows]).tolist())
    assert len(theirs & ours) / len(theirs) > 0.7
    assert len(theirs & ours) / len(ours) > 0.25
