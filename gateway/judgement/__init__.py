"""Pure parts: no I/O, no clock, no threads. Time comes in as an argument."""
