"""Figures and one self-contained HTML page: from `results.json` to something that can be read, printed and passed on."""
