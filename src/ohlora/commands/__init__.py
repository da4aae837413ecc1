"""Commands that are not stages: what a person brings in from elsewhere."""
