"""Hugging Face's weight names and jbert's parameter paths, one table for each architecture."""

from jbert.convert import bert, convbert, distilbert, mobilebert
from jbert.convert.rules import NameTable
from jbert.convert.weights import ConversionError as ConversionError

TABLES: dict[str, NameTable] = {
    "bert": bert.NAMES,
    "distilbert": distilbert.NAMES,
    "mobilebert": mobilebert.NAMES,
    "convbert": convbert.NAMES,
}
