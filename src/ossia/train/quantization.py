"""The old place of `ossia.train.weights.quantization`, which the documentation of 0.1.0 named."""

from ossia.train.weights.quantization import report as report
