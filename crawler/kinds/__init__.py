"""Kinds of spider: those that begin with sitemaps or feeds, and those that follow rules."""
