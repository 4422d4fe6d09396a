import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text._abbreviations import expand


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Dr. Smith", "Doctor Smith"),
        ("Ms Jones and Ms. Lee", "Miz Jones and Miz Lee"),
        ("Mr. and Mrs. Jones", "Mister and Missus Jones"),
        ("Main St. is long", "Main Street is long"),
        ("Main St. The shop", "Main Street. The shop"),
        ("Visit St. Paul", "Visit Saint Paul"),
        ("Meet Dr. Jones", "Meet Doctor Jones"),
        ("5th Ave. near", "5th Avenue near"),
        ("Elm Dr.", "Elm Drive."),
        ("Mt. Everest", "Mount Everest"),
        ("Acme Inc. said", "Acme Incorporated said"),
        ("Acme Inc. The end", "Acme Incorporated. The end"),
        ("Sammy Davis Jr. sang", "Sammy Davis Junior sang"),
        ("No. 5", "Number 5"),
        ("no.5", "number 5"),
        ("pp. 5-6", "pages 5-6"),
        ("Fig. 3", "Figure 3"),
        ("cf. Plato", "compare Plato"),
        ("cats vs dogs", "cats versus dogs"),
        ("Cats vs. dogs", "Cats versus dogs"),
        ("Ph.D. students", "P H D students"),
        ("a Ph.D. The", "a P H D. The"),
        ("approx. 5", "approximately 5"),
        ("The U.S. Army", "The U.S Army"),
        ("at 5 p.m. Monday", "at 5 p.m Monday"),
        ("J. R. R. Tolkien", "J R R Tolkien"),
        ("George W. Bush", "George W Bush"),
        ("by J. Smith", "by J Smith"),
        ("World War II", "World War two"),
        ("World War I ended", "World War one ended"),
        ("Chapter IV", "Chapter four"),
        ("Type V", "Type five"),
        ("Scene XIX", "Scene nineteen"),
        ("Elizabeth I was", "Elizabeth the first was"),
        ("Henry VIII", "Henry the eighth"),
        ("John Paul II", "John Paul the second"),
        ("Rocky III", "Rocky three"),
        ("and/or", "and or"),
        ("w/o sugar, w/ milk", "without sugar, with milk"),
        ("open 24/7", "open twenty-four seven"),
        ("Mon., Jan. 5", "Monday, Jan. 5"),
    ],
)
def test_expands(text: str, spoken: str) -> None:
    assert expand(text, british=False) == spoken


@pytest.mark.parametrize(
    "text",
    [
        "Dr Smith",
        "Inc. magazine",
        "No. He left.",
        "the U.S. He",
        "the U.S. economy",
        "at 5 p.m. The",
        "e.g. this",
        "vitamin C. Bananas",
        "Plan B. Students",
        "Vitamin C. Bananas",
        "It was I. He",
        "Part I like",
        "Mary I think",
        "An IV drip",
        "The XX gene",
        "MIX",
        "Malcolm X",
        "IV.",
        "Vand V",
        "and/orchestra",
        "The Sun 5 times",
    ],
)
def test_left_alone(text: str) -> None:
    assert expand(text, british=False) == text


@given(
    st.lists(
        st.sampled_from(["Dr.", "St.", "J.", "U.S.", "II", "I", "War", "vs", "Inc.", "The", "a", "Main", "\n", "."])
    )
)
def test_no_combination_fails_or_loses_plain_words(words: list[str]) -> None:
    spoken = expand(" ".join(words), british=True)
    for word in ("War", "Main", "The"):
        assert spoken.count(word) == words.count(word)
