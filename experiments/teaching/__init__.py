"""Teachers: what they say of recordings, and how it is stored."""
