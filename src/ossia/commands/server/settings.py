"""The server's settings as the options of `ossia serve` give them. What can be wrong with them is
said here, before a model is loaded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.commands.hosted import check as check_tools
from ossia.commands.server.options import Access, Kept, Limits, Options
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.server.settings import ApiKey, Settings
    from ossia.server.settings import Limits as KeyLimits

KEYS = "OSSIA_API_KEYS"
STRANGERS_TOOLS = frozenset({"browser"})  # for other machines, without a key
FILE = 1 << 30  # bytes of responses and conversations that are kept
MEMORY = 16 << 20  # where there is no file for them: small beside any model


def _shared(kept: Kept) -> str | None:
    """The URL of a database that several servers share. Raises `RequestError`."""
    from ossia.server.store.opening import is_url

    if kept.store is None or not is_url(kept.store):
        if kept.home is not None:
            raise RequestError("--home is of servers that share a --store postgresql://...")
        return None
    if kept.secret_file is None:
        raise RequestError(
            "--store postgresql://... is shared: give every server the same --secret-file, by "
            "which they know each other"
        )
    if kept.home is not None and not re.fullmatch(r"https?://[^/\s]+", kept.home):
        raise RequestError(f"--home {kept.home}: expected something such as http://10.0.0.7:8000")
    return kept.store


def at_home(settings: Settings, url: str) -> Settings:
    """With the address by which others reach this server. Raises `OssiaError` if the store that
    they share cannot be used: that is said before a model is loaded.
    """
    from ossia.server.store.opening import checked

    if settings.store_url is None:
        return settings
    asyncio.run(checked(settings.store_url))
    name = socket.gethostname()
    anywhere = ("://0.0.0.0:", "://[::]:")  # of which nobody else knows where it is
    for each in anywhere:
        url = url.replace(each, f"://{name}:")
    return replace(settings, home=url)


def _store_bytes(kept: Kept) -> int:
    if kept.store_bytes is not None:
        return kept.store_bytes
    return MEMORY if kept.store is None else FILE


def settings_of(options: Options) -> Settings:
    """Raises `RequestError` for what makes no sense."""
    from ossia.server import Settings
    from ossia.server.sealing import read_secret
    from ossia.server.settings import Limits as KeyLimits
    from ossia.server.settings import Retention
    from ossia.server.store.opening import is_url

    access = options.access
    answers = options.answers
    limits = options.limits
    kept = options.kept
    has_users = access.user_header is not None
    keys = _keys(access.api_key_file, os.environ.get(KEYS, ""), has_users=has_users)
    if not (keys or has_users or access.insecure or is_loopback(access.host)):
        raise RequestError(
            f"--host {access.host} lets other machines in, and there is no API key: give "
            f"--api-key-file or {KEYS}, or --insecure if whoever can connect may ask"
        )
    _check_limits(limits)
    _check_users(access)
    check_tools(options.hosted, is_loopback=is_loopback(access.host))
    strangers = None if keys or has_users or is_loopback(access.host) else STRANGERS_TOOLS
    return Settings(
        model_name=answers.model_name or _name(options.model),
        strict_model_names=answers.strict_model_names,
        effort=answers.default_effort,
        effort_in_system=not answers.no_effort_in_system,
        constrained=not answers.unconstrained,
        keys=keys,
        limits=KeyLimits(tools=strangers),
        citations=options.hosted.citations,
        max_queue=limits.max_queue,
        max_body=limits.max_body,
        max_connections=limits.max_connections,
        header_timeout=limits.header_timeout,
        body_timeout=limits.body_timeout,
        trusted_proxies=_proxies(access.trusted_proxy),
        user_header=access.user_header,
        users=_users(access),
        local_limits=limits.local_limits,
        drain=limits.drain,
        store_path=None if kept.store is None or is_url(kept.store) else Path(kept.store),
        store_url=_shared(kept),
        store_ttl=kept.store_ttl,
        store_bytes=_store_bytes(kept),
        retention=Retention(**dict(kept.retention)),
        secret=None if kept.secret_file is None else read_secret(Path(kept.secret_file)),
        log_prompts=kept.log_prompts,
        cors_origins=_origins(access.cors_origin),
        hosts=() if keys or has_users or access.insecure else _own_names(access.host),
    )


def _check_limits(limits: Limits) -> None:
    if limits.max_connections < 0:
        raise RequestError(f"--max-connections must be 0 or more, found {limits.max_connections}")
    for name in ("header_timeout", "body_timeout"):
        if not getattr(limits, name):
            raise RequestError(f"--{name.replace('_', '-')} must be more than 0")


def _proxies(given: tuple[str, ...]) -> tuple[str, ...]:
    for address in given:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            if address != "*":
                raise RequestError(
                    f"--trusted-proxy {address}: expected *, an address or a network such as "
                    "10.0.0.0/8"
                ) from error
    return given


def _check_users(access: Access) -> None:
    if access.user_header is None:
        return
    if not re.fullmatch("[A-Za-z0-9-]{1,80}", access.user_header):
        raise RequestError(f"--user-header {access.user_header}: that is no name of a header")
    if not access.trusted_proxy or "*" in access.trusted_proxy:
        raise RequestError(
            "--user-header lets in whom a proxy names: give the proxy's address with "
            "--trusted-proxy, and not *"
        )


def _users(access: Access) -> KeyLimits:
    """What each of a proxy's users may use."""
    from ossia.server.keys import read_users
    from ossia.server.settings import Limits

    file = access.api_key_file
    return Limits() if file is None else read_users(Path(file))


def _own_names(host: str) -> tuple[str, ...]:
    """The names that this machine is reached by when only it is let in."""
    return ("localhost", "127.0.0.1", "::1", host.strip("[]").lower())


def _keys(file: str | None, environment: str, *, has_users: bool) -> tuple[ApiKey, ...]:
    from ossia.server.keys import merged, parse_keys, read_keys

    keys: tuple[ApiKey, ...] = ()
    if file is not None:
        keys += read_keys(Path(file), has_users=has_users)
    if environment.strip():
        keys += parse_keys(re.split(r"[,\n]", environment), KEYS)
    return merged(keys, "the API keys")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _origins(given: tuple[str, ...]) -> tuple[str, ...]:
    for origin in given:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise RequestError(
                f"--cors-origin {origin}: expected * or something such as https://example.org"
            )
    return given


def _name(model: str) -> str:
    """What clients call it: the folder's name, without a file's ending."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rsplit("/", 1)[-1]
    return path.resolve().name.removesuffix(".gguf")
