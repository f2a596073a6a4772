"""Shared parts of all pages: tables, pictures, links, styles, quantities with verdicts, declaration and writing of pages."""
