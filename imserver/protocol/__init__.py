"""Dialects: how bytes become commands, and events bytes. No I/O, no clock, no state but counters."""
