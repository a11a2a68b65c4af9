"""Pictures of what the dynamics of a DyMN do."""
