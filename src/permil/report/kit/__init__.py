"""What all pages share: tables, pictures and links, styles, quantities with verdicts, and how a page is declared and written."""
