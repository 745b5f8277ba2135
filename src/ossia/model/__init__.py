"""The model itself: one Transformer for training, prefill and decode."""

from ossia.model.moe import Moe, PackedExperts, TrainableExperts
from ossia.model.transformer import Transformer

__all__ = ["Moe", "PackedExperts", "TrainableExperts", "Transformer"]
