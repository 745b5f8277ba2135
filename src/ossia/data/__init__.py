"""Training data of the little world, endless: conversations for fine-tuning, documents for
pre-training.
"""

from __future__ import annotations

from ossia.data.conversations import MIXTURE, conversation, conversations, drill
from ossia.data.text import document, documents

__all__ = ["MIXTURE", "conversation", "conversations", "document", "documents", "drill"]
