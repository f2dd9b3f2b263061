"""Generated parts of hand-written documents, each between two marks."""


def replace_between(document: str, begin: str, end: str, text: str) -> str:
    """Return a document with `text` between two marks, which must be in it once each."""
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}{end}{after}"
