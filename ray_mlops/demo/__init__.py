"""The demo: a year of flights, replayed through the loop."""
