import html
import re

from hypothesis import given
from hypothesis import strategies as st

from vivace.workflows._report_markdown import text


def test_names_keep_their_underscores_and_markup_is_inert():
    assert text("int8_static") == "int8_static"
    assert text("_a_ *b* `c` [d](e) <f> | g\nh") == r"\_a\_ \*b\* \`c\` \[d\](e) &lt;f&gt; \| g h"


@given(st.text())
def test_text_reads_as_itself(raw):
    read = html.unescape(re.sub(r"\\([\\`*|\[\]_])", r"\1", text(raw)))
    assert read == " ".join(raw.split())
    assert "\n" not in text(raw) and not re.search(r"(?<!\\)(?:\\\\)*\|", text(raw).replace(r"\|", ""))
