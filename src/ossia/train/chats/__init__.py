"""Conversations to train on: read, encoded, stored."""

from ossia.train.chats.encode import Found, Reading, examples_in

__all__ = ["Found", "Reading", "examples_in"]
