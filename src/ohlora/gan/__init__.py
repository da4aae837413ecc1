"""Adversarial training of StyleGAN networks."""
