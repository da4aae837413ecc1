"""Training of the bundled networks on rendered faces; not part of the default pipeline."""
