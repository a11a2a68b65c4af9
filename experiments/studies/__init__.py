"""Studies: tables whose every number is one command, made by a loop that can be stopped."""
