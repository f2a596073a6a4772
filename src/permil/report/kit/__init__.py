"""Shared parts of all pages: tables, pictures and links, styles, quantities with verdicts, and how a page is declared and written."""
