"""The jobs, convert, verify and inspect: values in, values out; nothing is printed here."""

from inflate.workflow.conversion import ConversionResult, convert
from inflate.workflow.verification import verify

__all__ = ["ConversionResult", "convert", "verify"]
