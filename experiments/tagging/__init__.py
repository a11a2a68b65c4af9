"""Tagging recordings and streams with MN and DyMN; the command is `experiments.tag`."""
