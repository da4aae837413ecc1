"""Commands that are no stages: what comes in from elsewhere, comparisons of settings, faces picked."""
