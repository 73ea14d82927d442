"""One file for each revision. A released one is never edited."""
