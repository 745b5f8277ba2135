"""What keeping a request's answer costs, in a file and in PostgreSQL, in the same run.

    python bench/store.py [--rounds 5] [--requests 200] [--postgres URL]

A request here is what a turn of a conversation needs: its earlier items are read, two items are
added, the response is put and read again. Without `--postgres` one of the distribution's packages
is started, on this machine. Printed are medians over rounds in milliseconds a request, of one
client and of 16 at the same time, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ossia.server.store.opening import database_of
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse

TEXT = "What is 37 + 48? It is 85, as 30 + 40 = 70 and 7 + 8 = 15. " * 10
CLIENTS = (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--postgres", help="the URL of an empty database")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, database(options.postgres) as url:
        places = {"file": Path(folder) / "s.db", "postgres": url}
        asyncio.run(compare(places, options.rounds, options.requests))


@contextmanager
def database(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    from postgres_server import binaries, postgres

    bin = binaries()
    if bin is None:
        raise SystemExit("no PostgreSQL: give --postgres URL, or apt-get install postgresql")
    with postgres(bin) as server:
        yield server.make("bench")


async def compare(places: dict[str, Any], rounds: int, requests: int) -> None:
    async with opened(places) as stores:
        for clients in CLIENTS:
            seconds: dict[str, list[float]] = {name: [] for name in stores}
            for _ in range(rounds):
                for name, store in stores.items():
                    seconds[name].append(await timed(store, clients, requests))
            report(clients, {name: statistics.median(each) for name, each in seconds.items()})


@asynccontextmanager
async def opened(places: dict[str, Any]) -> AsyncIterator[dict[str, Store]]:
    stores = {name: Store(database_of(at), 1e6, 1 << 30) for name, at in places.items()}
    for store in stores.values():
        await store.open()
    yield stores
    for store in stores.values():
        await store.close()


async def timed(store: Store, clients: int, requests: int) -> float:
    """Milliseconds a request."""
    conversations = [(await store.new_conversation("ann", {}))["id"] for _ in range(clients)]
    begun = time.perf_counter()
    each = requests // clients
    await asyncio.gather(*(client(store, id, each) for id in conversations))
    return (time.perf_counter() - begun) / (each * clients) * 1e3


async def client(store: Store, conversation: str, requests: int) -> None:
    for n in range(requests):
        said = {"type": "message", "role": "user", "content": TEXT}
        await store.items("ann", conversation)
        added = await store.add_items("ann", conversation, [said, said | {"role": "assistant"}])
        id = f"resp_{conversation}_{n}"
        response = {"id": id, "status": "completed", "output": added[1:]}
        await store.put(StoredResponse(id, "ann", response, [], added[:1]))
        assert await store.get("ann", id) is not None


def report(clients: int, found: dict[str, float]) -> None:
    ratio = found["postgres"] / found["file"]
    print(
        f"{clients:>3} at a time: file {found['file']:.2f} ms a request, "
        f"PostgreSQL {found['postgres']:.2f} ms, {ratio:.1f} times"
    )


if __name__ == "__main__":
    main()
