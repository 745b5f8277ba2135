"""A PDF on stdin, its text on stdout, with a form feed between pages: a program of its own, because
a hostile file can keep any reader busy for ever.

`confined.py` runs it by path, so that nothing but pypdf is imported. An exit status above 0 comes
with the reason on stderr.
"""

from __future__ import annotations

import io
import logging
import sys

TEXT = 4 << 20  # characters: several times what a context holds


def main() -> None:
    logging.disable()  # what pypdf repairs on its way is nobody's concern
    try:
        text = _text(sys.stdin.buffer.read())
    except MemoryError:
        sys.exit("it takes too much memory")
    except Exception as error:  # pypdf's are many, and so are those that files provoke in it
        sys.exit(f"it cannot be read ({type(error).__name__})")
    if not text.strip():
        sys.exit("it has no text: its pages may be pictures")
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))


def _text(data: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        sys.exit("it is encrypted")
    pages: list[str] = []
    length = 0
    for page in reader.pages:
        pages.append(page.extract_text().replace("\f", "\n"))
        length += len(pages[-1])
        if length > TEXT:
            sys.exit(f"it has more than {TEXT} characters of text")
    return "\f".join(pages)


if __name__ == "__main__":
    main()
