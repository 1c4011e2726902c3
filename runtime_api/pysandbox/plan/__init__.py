"""Spec in, plan out: pure functions that decide everything before anything is done."""
