"""JAX's persistent compilation cache, so that a pipeline's programs are compiled once a machine."""

import logging
import os
import sys
from pathlib import Path

import jax

logger = logging.getLogger("jbert")

OPT_OUT = "JBERT_NO_COMPILE_CACHE"


def cache_directory() -> Path:
    """Where the platform keeps a user's caches."""
    home = Path.home()
    default = {
        "darwin": home / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")),
    }.get(sys.platform, home / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "jbert" / "compiled"


def enable_compile_cache() -> Path | None:
    """Turns the cache on, unless the user has chosen one or said JBERT_NO_COMPILE_CACHE=1.

    JAX_COMPILATION_CACHE_DIR, or JAX's option of that name, wins over the default directory.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if os.environ.get(OPT_OUT, "") not in ("", "0") or chosen:
        return None
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.info("no compilation cache: %s", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    return directory
