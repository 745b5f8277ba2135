"""The browser: search, open and find, as gpt-oss was trained with, over a corpus or the web."""

from ossia.tools.browser.backend import Backend, Hit
from ossia.tools.browser.book import Book, Page
from ossia.tools.browser.citations import Citations, Cited
from ossia.tools.browser.corpus import Corpus
from ossia.tools.browser.fetching import Fetcher
from ossia.tools.browser.session import BrowserSession
from ossia.tools.browser.tool import Browser, LimitedBrowser
from ossia.tools.browser.web import Exa, PlainWeb, Searx, YouCom

__all__ = [
    "Backend",
    "Book",
    "Browser",
    "BrowserSession",
    "Citations",
    "Cited",
    "Corpus",
    "Exa",
    "Fetcher",
    "Hit",
    "LimitedBrowser",
    "Page",
    "PlainWeb",
    "Searx",
    "YouCom",
]
