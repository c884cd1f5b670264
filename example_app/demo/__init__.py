"""The demo (`make demo`): a customer uses the example app over real HTTP, and its worker delivers."""
