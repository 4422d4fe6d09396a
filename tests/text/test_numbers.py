import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text._numbers import expand


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("$3", "three dollars"),
        ("$1", "one dollar"),
        ("$20/month", "twenty dollars per month"),
        ("£0.01", "one penny"),
        ("₹250", "two hundred fifty rupees"),
        ("¥1", "one yen"),
        ("-$5", "minus five dollars"),
        ("$5-$10", "five to ten dollars"),
        ("$5–10 million", "five to ten million dollars"),
        ("a $5 bill", "a five dollar bill"),
        ("US$20", "twenty U.S. dollars"),
        ("$5 T-shirt", "five dollars T-shirt"),
        ("$1,250.75", "one thousand two hundred fifty dollars and seventy-five cents"),
        ("$1.00", "one dollar"),
        ("$0.00", "zero dollars"),
        ("5.50 €", "five euros and fifty cents"),
        ("5€", "five euros"),
        ("$1.999", "one point nine nine nine dollars"),
        ("$3.5k", "three point five thousand dollars"),
        ("2024-03-15", "March fifteenth, twenty twenty-four"),
        ("3/15/2024", "March fifteenth, twenty twenty-four"),
        ("15/3/2024", "March fifteenth, twenty twenty-four"),
        ("3/15/24", "March fifteenth, twenty twenty-four"),
        ("1/2/99", "January second, nineteen ninety-nine"),
        ("15 March 2024", "the fifteenth of March twenty twenty-four"),
        ("the 15th of March", "the fifteenth of March"),
        ("March 15, 2024", "March fifteenth, twenty twenty-four"),
        ("Dec. 25", "December twenty-fifth"),
        ("May 5", "May fifth"),
        ("March 15-17", "March 15 to 17"),
        ("Jan 2024", "January twenty twenty-four"),
        ("3:00", "three o'clock"),
        ("15:00", "fifteen hundred"),
        ("9:00 a.m.", "nine a.m."),
        ("6:05", "six oh five"),
        ("5 km", "five kilometers"),
        ("5km", "five kilometers"),
        ("1 kg", "one kilogram"),
        ("a 5-km run", "a five-kilometer run"),
        ("a 3 GB file", "a three gigabyte file"),
        ("60 mph", "sixty miles per hour"),
        ("5 m²", "five square meters"),
        ("5 µm", "five micrometers"),
        ("5 μs", "five microseconds"),
        ("-5°C", "minus five degrees Celsius"),
        ("5 ft", "five feet"),
        ("500 Hz", "five hundred hertz"),
        ("20 kWh", "twenty kilowatt hours"),
        ("5'10\"", "five foot ten"),
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("5/8", "five eighths"),
        ("2 1/2", "two and a half"),
        ("½", "one half"),
        ("3¾", "three and three quarters"),
        ("1/7 - 3/7", "one seventh - three sevenths"),
        ("1990-1995", "nineteen ninety to nineteen ninety-five"),
        ("1990–95", "nineteen ninety to ninety-five"),
        ("2003-09", "two thousand three to oh nine"),
        ("5-10", "5 to 10"),
        ("5–10", "5 to 10"),
        ("0-5", "0 to 5"),
        ("3-2", "3 to 2"),
        ("100-200", "100 to 200"),
        ("pages 120-135", "pages 120 to 135"),
        ("1.5-2.5", "1.5 to 2.5"),
        ("the 1980s", "the nineteen eighties"),
        ("the '80s", "the eighties"),
        ("mid-80s", "mid-eighties"),
        ("her 30s", "her thirties"),
        ("the 1900s", "the nineteen hundreds"),
        ("in 1812", "in eighteen twelve"),
        ("in 1812 km", "in one thousand eight hundred twelve kilometers"),
        ("1984", "nineteen eighty-four"),
        ("$1984", "one thousand nine hundred eighty-four dollars"),
        ("2024", "twenty twenty-four"),
        ("100th", "one hundredth"),
        ("1,000th", "one thousandth"),
        ("#5", "number 5"),
        ("3x4", "3 by 4"),
        ("3x", "3 times"),
        ("x²", "x squared"),
        ("10^6", "10 to the power of 6"),
        ("a^b", "a to the power of b"),
        ("~5", "about 5"),
        ("AD 70", "A.D 70"),
        ("70 AD", "70 A.D"),
        ("(1648)", "(sixteen forty-eight)"),
    ],
)
def test_american(text: str, spoken: str) -> None:
    assert expand(text, british=False) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("₹250", "two hundred and fifty rupees"),
        ("$1,250.75", "one thousand two hundred and fifty dollars and seventy-five cents"),
        ("2024-03-15", "the fifteenth of March twenty twenty-four"),
        ("3/15/2024", "the fifteenth of March twenty twenty-four"),
        ("15/3/2024", "the fifteenth of March twenty twenty-four"),
        ("3/15/24", "the fifteenth of March twenty twenty-four"),
        ("1/2/99", "the first of February nineteen ninety-nine"),
        ("2003-09", "two thousand and three to oh nine"),
        ("in 1812 km", "in one thousand eight hundred and twelve kilometers"),
        ("$1984", "one thousand nine hundred and eighty-four dollars"),
    ],
)
def test_british(text: str, spoken: str) -> None:
    assert expand(text, british=True) == spoken


@pytest.mark.parametrize(
    "text",
    [
        "2024-13-45",
        "45/45/2024",
        "3/4/900",
        "March 15:30",
        "0:00",
        "12:30",
        "1:2",
        "24h",
        "5 W 34th Street",
        "iPhone 5s",
        "6'",
        "7/5",
        "1/2/3/4",
        "1995-90",
        "01-05",
        "737-800",
        "5-10-15",
        "555-12",
        "1984.5",
        "1,984",
        "2005",
        "in 2005",
        "2048 items",
        "1066",
        "21st",
        "#tag",
        "C#",
        "0x1F",
        "an AD",
        "1.2.3",
        "192.168.1.1",
        "978-3-16-148410-0",
        "3.14",
        "1,250",
        "007",
        "50%",
        "9/11",
    ],
)
def test_left_alone(text: str) -> None:
    assert expand(text, british=False) == text


@given(st.text("0123456789.,:/-–$£€%°'\"#x^~kmGBMayin² ", max_size=40))
def test_no_string_of_digits_and_signs_fails(text: str) -> None:
    expand(text, british=True)


@given(st.text(st.characters(exclude_categories=("N", "S")), max_size=80))
def test_text_without_numbers_is_untouched(text: str) -> None:
    assert expand(text, british=False) == text
