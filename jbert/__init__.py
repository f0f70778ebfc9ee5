"""The BERT family in JAX and Flax."""

# Loading and saving
from jbert import losses as losses
from jbert.execution import Execution as Execution
from jbert.export import export as export
from jbert.heads import Output as Output
from jbert.load import from_config as from_config
from jbert.load import load as load
from jbert.loaded import Bert as Bert

# Configurations
from jbert.models import presets as presets
from jbert.models.bert import BertConfig as BertConfig
from jbert.models.convbert import ConvBertConfig as ConvBertConfig
from jbert.models.distilbert import DistilBertConfig as DistilBertConfig
from jbert.models.mobilebert import MobileBertConfig as MobileBertConfig
from jbert.save import save as save

# Devices
from jbert.sharding import make_mesh as make_mesh

# Scanned and unrolled parameters
from jbert.stack import stack_layers as stack_layers
from jbert.stack import unstack_layers as unstack_layers
from jbert.stablehlo import load_stablehlo as load_stablehlo

# Text
from jbert.tokenizer import Tokenizer as Tokenizer
from jbert.version import __version__ as __version__
