"""The BERT family in JAX and Flax."""

from jbert.version import __version__ as __version__
