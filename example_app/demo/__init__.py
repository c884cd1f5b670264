"""The example app and its worker at work, watched by a customer over real HTTP: `make demo`."""
