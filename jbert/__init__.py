"""The BERT family in JAX and Flax."""

# ruff: noqa: E402, I001 — the order is that of the headings

# First: what follows cannot be imported with older versions
from jbert.required import require as _require

_require()

# Loading and saving
from jbert.load import from_config as from_config
from jbert.load import load as load
from jbert.save import save as save
from jbert.export import export as export
from jbert.stablehlo import load_stablehlo as load_stablehlo
from jbert.loaded import Bert as Bert
from jbert.heads import Output as Output

# Text
from jbert.tokenizer import Tokenizer as Tokenizer
from jbert.pipelines import pipeline as pipeline

# Losses
from jbert import losses as losses

# Configurations
from jbert.models.bert import BertConfig as BertConfig
from jbert.models.distilbert import DistilBertConfig as DistilBertConfig
from jbert.models.mobilebert import MobileBertConfig as MobileBertConfig
from jbert.models.convbert import ConvBertConfig as ConvBertConfig
from jbert.models import presets as presets
from jbert.execution import Execution as Execution

# Devices
from jbert.sharding import make_mesh as make_mesh

# Parameters of scanned and unrolled models
from jbert.stack import stack_layers as stack_layers
from jbert.stack import unstack_layers as unstack_layers

from jbert.version import __version__ as __version__
