"""The old place of `ossia.train.weights.adapter`, which the documentation of 0.1.0 named."""

from ossia.train.weights.adapter import save_peft as save_peft
