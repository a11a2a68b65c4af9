"""Side by side: this library and what a user would pick instead, each in a process of its own."""
