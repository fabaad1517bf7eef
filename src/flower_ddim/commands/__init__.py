"""The console command `flower-ddim`, one module a subcommand; `scripts/` runs the same functions."""
