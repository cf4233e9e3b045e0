from tools.traces_page import PAGE, page


def test_the_page_on_traces_is_the_catalogue_as_it_stands():
    assert PAGE.read_text() == page(), "run: uv run python tools/traces_page.py"
