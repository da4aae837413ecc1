"""Oh-LoRA: expression directions in the latent space of a StyleGAN."""

__version__ = "0.1.0"
