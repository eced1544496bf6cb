"""Reading a page as a browser would: its elements, and what it would load or run."""

from html.parser import HTMLParser

HOSTILE = """"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;\u202e\x00\ud800`${1}` </style></title>"""


class Reader(HTMLParser):
    """Collects elements, attributes and text; elements must close in order."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = []
        self.attributes = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    """Read a page and make sure that it is whole, and neither loads nor runs anything."""
    page.encode("utf-8")
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    for name, value in reader.attributes:
        assert name not in {"src", "href"}
        assert "url(" not in (value or "")
    assert "url(" not in page.partition("</style>")[0]
    assert "@import" not in page
    return reader
