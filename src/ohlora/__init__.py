"""Oh-LoRA: expression directions in the latent space of a StyleGAN."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ohlora.editor import Editor

__all__ = ["Editor"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The editor needs torch, which takes seconds to import; stages and tools that do without must not wait for it.
    if name == "Editor":
        from ohlora.editor import Editor

        return Editor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
