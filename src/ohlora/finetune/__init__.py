"""Fine-tuning of a StyleGAN: recipes as data, one engine, three losses, and the tests made during training."""
