"""Which class a word means: a name first, a number where no class could be meant, else refused with both readings."""

import pytest

from sfumato.core.classes import class_number, natural
from sfumato.core.errors import UsageError

PETS = ["cat", "dog", "café"]
DIGITS = [str(k) for k in range(12)]
YEARS = ["1999", "2004", "0"]


@pytest.mark.parametrize(
    ("word", "names", "count", "number"),
    [
        ("dog", PETS, None, 1),
        ("cafe\u0301", PETS, None, 2),  # decomposed, as macOS writes it
        ("1", PETS, None, 1),  # no class is called by a number, so it is an index
        ("10", DIGITS, None, 10),
        ("2.0", DIGITS, None, 2),
        ("007", DIGITS, None, 7),
        ("0", YEARS, None, 2),  # a name, though it would be another class as an index
        ("3", [], 5, 3),
        ("3", [], None, 3),
    ],
)
def test_a_word_is_a_name_first(word, names, count, number):
    assert class_number(word, names, count) == number


@pytest.mark.parametrize(
    ("word", "names", "count", "answer"),
    [
        ("dgo", PETS, None, "Did you mean 'dog'"),
        ("1", YEARS, None, "No class is called '1', and as an index it would be '2004'"),
        ("3", YEARS, None, r"No class is called '3'\. Say the name: 1999, 2004, 0"),
        ("3", PETS, None, "there are 3, from 0 to 2"),
        ("-1", PETS, None, "There is no class of number -1"),
        ("1.5", PETS, None, "There is no class of number 1.5"),
        ("5", [], 5, "there are 5, from 0 to 4"),
        ("cat", [], 5, "does not know the names of its classes"),
        ("nan", [], 5, "is no number"),
        ("2.0", ["2", "02", "x"], None, "could be the class '2' and '02'"),
    ],
)
def test_what_no_class_is_called_is_answered(word, names, count, answer):
    with pytest.raises(UsageError, match=answer):
        class_number(word, names, count)


def test_the_natural_order_is_by_value():
    assert sorted(["10", "9", "b", "-1", "2.5", "a"], key=natural) == ["-1", "2.5", "9", "10", "a", "b"]
