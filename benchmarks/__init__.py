"""Benchmarks: each program measures this library beside what a host would use otherwise."""
