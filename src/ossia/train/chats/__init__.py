"""Conversations to train on: read, encoded, stored."""
