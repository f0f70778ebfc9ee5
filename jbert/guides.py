"""Which page of docs/ explains an error; the commands name it below what is wrong."""

from jbert.backend import DeviceError
from jbert.hub import HubError
from jbert.lock import LockedError
from jbert.manifest import DamagedError

_OF_ERRORS = {
    DamagedError: "checkpoints", DeviceError: "start", HubError: "start", LockedError: "launch",
}  # fmt: skip
_OF_COMMANDS = {
    "convert": "convert", "distill": "distillation", "doctor": "start", "finetune": "finetune",
    "info": "convert", "plan": "plan", "predict": "predict", "pretrain": "pretraining",
    "tour": "start",
}  # fmt: skip


def guide_of(command: str, error: BaseException) -> str:
    """The page on this kind of error, or else on the command."""
    pages = (page for kind, page in _OF_ERRORS.items() if isinstance(error, kind))
    return f"docs/{next(pages, _OF_COMMANDS.get(command, 'start'))}.md"
