"""What ships: a folder that can be checked anywhere (pack), and the check (verify, self_check)."""
