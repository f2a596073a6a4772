"""Damaged raw files by the thousand: a seeded generator, what reads them, and what must hold then."""
