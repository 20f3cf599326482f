"""Dialects: they decode bytes into commands and encode events. No I/O, no
clock, no state except counters."""
