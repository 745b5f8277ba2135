"""Training data of the little world: conversations for fine-tuning and documents for pre-training, both
endless.
"""

from __future__ import annotations

from ossia.data.conversations import MIXTURE, conversation, conversations
from ossia.data.text import document, documents

__all__ = ["MIXTURE", "conversation", "conversations", "document", "documents"]
