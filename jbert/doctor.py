"""What `jbert doctor` prints: a line for each thing that jbert stands on, and what mends it."""

import contextlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jbert import required
from jbert.backend import DeviceError, check_devices
from jbert.data.cache import default_directory
from jbert.pipelines.compile_cache import OPT_OUT, cache_directory
from jbert.version import __version__

# What each optional part imports, and the extra that installs it.
PARTS = {
    "TFDS data sets": (("array_record", "tensorflow_datasets", "importlib_resources"), "data"),
    "parquet files": (("pyarrow.parquet",), "data"),
    "TensorBoard": (("tensorboardX",), "tensorboard"),
    "curves": (("matplotlib",), "colab"),
    "plans for TPUs": (("libtpu",), "tpu-plan"),
}
MODEL = "google/mobilebert-uncased"  # on the hub


@dataclass(frozen=True)
class Finding:
    """`absent` is an optional part that is not installed; only `wrong` makes the doctor fail."""

    state: Literal["ok", "absent", "wrong"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<8}{self.name:<20}{self.text}"


def doctor(network: bool = False) -> int:
    """Prints every finding as it is made; the exit status is 1 if one of them is wrong."""
    failed = False
    for finding in findings(network):
        print(finding, flush=True)
        failed |= finding.state == "wrong"
    return int(failed)


def findings(network: bool = False) -> Iterator[Finding]:
    yield from versions()
    yield from devices()
    yield from caches()
    for name, (modules, extra) in PARTS.items():
        yield part(name, modules, extra)
    if network:
        yield hub()


# -- versions -------------------------------------------------------------------------------------


def versions() -> Iterator[Finding]:
    yield Finding("ok", "jbert", f"{__version__}, {Path(__file__).parent}")
    least = ".".join(map(str, required.PYTHON))
    yield Finding("ok", "python", f"{sys.version.split()[0]}, needs >={least}, {sys.executable}")
    for requirement in ("jaxlib", *required.PACKAGES):
        name = required.name_of(requirement)
        found = required.installed(requirement)
        wanted = requirement.removeprefix(name)
        text = f"{found}, needs {wanted}" if wanted else f"{found}"
        # Which jaxlib is right only jax knows, and it refuses to be imported with another.
        right = required.fits(found, requirement)
        mend = "" if right else f": {required.install(requirement)}"
        yield Finding("ok" if right else "wrong", name, text + mend)


# -- devices --------------------------------------------------------------------------------------


def devices() -> Iterator[Finding]:
    try:
        check_devices()
        found = jax.local_devices()
        total = float(jax.jit(lambda x: x.sum())(np.ones(8, np.float32)))
    except (DeviceError, RuntimeError) as error:
        yield Finding("wrong", "devices", " ".join(str(error).split()))
        return
    kinds = ", ".join(sorted({device.device_kind for device in found}))
    if total != 8:
        text = f"{len(found)} × {kinds} add up eight ones to {total}; restart the machine"
        yield Finding("wrong", "devices", text)
        return
    yield Finding("ok", "devices", f"{len(found)} × {kinds} ({jax.default_backend()})")
    if jax.default_backend() == "cpu" and "cpu" not in os.environ.get("JAX_PLATFORMS", ""):
        yield from unused()


def unused() -> Iterator[Finding]:
    """Accelerators that this machine seems to have, and JAX does not use."""
    for extra, there in (("gpu", has_gpu()), ("tpu", has_tpu())):
        if there:
            text = (
                f"this machine has one, and JAX computes on the CPU: pip install 'jbert[{extra}]'"
            )
            yield Finding("wrong", extra.upper(), text)
    names = ("jax-cuda12-plugin", "jax-cuda13-plugin")
    plugins = [name for name in names if required.installed(name) not in (None, "unknown")]
    if plugins and not has_gpu():
        text = (
            f"{plugins[0]} is installed, and there is no GPU (nvidia-smi lists them); to compute "
            "on the CPU in peace: export JAX_PLATFORMS=cpu"
        )
        yield Finding("wrong", "GPU", text)


def has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def has_tpu() -> bool:
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    google = any(vendor.read_text().strip() == "0x1ae0" for vendor in vendors)
    return google and (Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists())


# -- caches ---------------------------------------------------------------------------------------


def caches() -> Iterator[Finding]:
    from huggingface_hub import constants

    if os.environ.get(OPT_OUT, "") not in ("", "0"):
        yield Finding("ok", "compiled programs", f"not kept, by {OPT_OUT}")
    else:
        chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore
        yield cache("compiled programs", Path(chosen or cache_directory()), "XDG_CACHE_HOME")
    yield cache("tokenised data", default_directory(), "XDG_CACHE_HOME")
    yield cache("hub files", Path(constants.HF_HUB_CACHE), "HF_HOME")


def cache(name: str, directory: Path, setting: str) -> Finding:
    count, size = contents(directory)
    text = f"{directory}: {count} files, {size / 1e6:,.1f} MB"
    parent = next(place for place in (directory, *directory.parents) if place.exists())
    if parent.is_dir() and os.access(parent, os.W_OK):
        return Finding("ok", name, text)
    return Finding("wrong", name, f"{text}; {parent} cannot be written: export {setting}=DIR")


def contents(directory: Path) -> tuple[int, int]:
    """The number of files and of their bytes; a link counts as what it is."""
    count = size = 0
    for place, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # gone by now
                size += os.lstat(os.path.join(place, name)).st_size
                count += 1
    return count, size


# -- optional parts -------------------------------------------------------------------------------


def part(name: str, modules: tuple[str, ...], extra: str) -> Finding:
    command = f"pip install 'jbert[{extra}]'"
    for module in modules:
        if not there(module.partition(".")[0]):
            return Finding("absent", name, f"{module} is not installed: {command}")
        try:
            with silence():
                importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            command = command.replace("install", "install --upgrade --force-reinstall")
            return Finding("wrong", name, f"{module} cannot be imported ({said}): {command}")
    return Finding("ok", name, "works")


def there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is in sys.modules as None
        return False


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Some packages talk while they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def hub() -> Finding:
    from huggingface_hub import HfApi, constants

    try:
        HfApi().model_info(MODEL, timeout=10)
    except Exception as error:  # of many kinds: of the network, of the hub, of a proxy
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        text = f"{constants.ENDPOINT} does not answer ({said}); see HF_ENDPOINT, HTTPS_PROXY"
        return Finding(
            "wrong", "hub", f"{text}, or work with what is cached: export HF_HUB_OFFLINE=1"
        )
    return Finding("ok", "hub", f"{constants.ENDPOINT} answers")
