"""Stub to be filled."""

from __future__ import annotations

from fastapi import APIRouter

from ossia.server.service import Service


def router(service: Service) -> APIRouter:
    return APIRouter()
