"""Sinks: where finished blocks are stored, and what is made of them."""
