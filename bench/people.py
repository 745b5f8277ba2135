"""How many people a server, or a fleet behind a front, can talk with.

    python bench/people.py URL [--key KEY] [--think 30] [--answer 300] [--limit 2] [--most 1024]

A crowd talks as people do: each asks, waits for the whole answer, reads and thinks for a random
while (exponential, `--think` seconds on average), and asks again in the same conversation, a new
one after eight turns. Answers have `--answer` tokens, reasoning included. The crowd doubles until
the p95 of the first token is above `--limit` seconds, or somebody is refused; what is printed is a
line for each size, and the largest that was served. The first answers of a size do not count: its
people come in one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

TURNS = 8  # of a conversation
ROUNDS = 4  # questions of each person that count
QUESTION = "What is {} + {}? Explain it."


@dataclass
class Heard:
    """What people of one crowd saw. Seconds."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    lost: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.first)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    parser.add_argument("--think", type=float, default=30.0, help="seconds between questions")
    parser.add_argument("--answer", type=int, default=300, help="tokens of an answer")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds, p95 of the first token")
    parser.add_argument("--first", type=int, default=8, help="people of the first crowd")
    parser.add_argument("--most", type=int, default=1024, help="people of the largest crowd")
    asyncio.run(grow(parser.parse_args()))


async def grow(args: argparse.Namespace) -> None:
    print("| people | first token p50 | p95 | p99 | whole answer p50 | tokens/s | lost |")
    print("|---|---|---|---|---|---|---|")
    served = 0
    people = args.first
    while people <= args.most:
        began = time.perf_counter()
        heard = await crowd(args, people)
        seconds = time.perf_counter() - began
        print(line(people, heard, seconds), flush=True)
        if heard.lost or heard.percentile(0.95) > args.limit:
            break
        served = people
        people *= 2
    print(f"served: {served} people with a first token within {args.limit:g} s for 19 of 20")
    for text in heard.lost[:3]:
        print(f"lost: {text}")


async def crowd(args: argparse.Namespace, people: int) -> Heard:
    heard = Heard()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=people)
    headers = {"Authorization": f"Bearer {args.key}"}
    async with httpx.AsyncClient(
        base_url=args.url, headers=headers, limits=limits, timeout=600
    ) as client:
        await asyncio.gather(*(person(client, args, n, heard) for n in range(people)))
    return heard


async def person(
    client: httpx.AsyncClient, args: argparse.Namespace, number: int, heard: Heard
) -> None:
    draw = random.Random(number)
    await asyncio.sleep(draw.uniform(0, args.think))
    before: str | None = None
    for turn in range(ROUNDS + 1):
        into = heard if turn else Heard()
        try:
            before = await ask(client, args, draw, before, into)
        except (httpx.HTTPError, ValueError) as error:
            heard.lost.append(repr(error)[:200])
            return
        if (turn + 1) % TURNS == 0:
            before = None
        await asyncio.sleep(draw.expovariate(1 / args.think) if args.think else 0)


async def ask(
    client: httpx.AsyncClient,
    args: argparse.Namespace,
    draw: random.Random,
    before: str | None,
    heard: Heard,
) -> str:
    """The response's id. Raises for an answer that is not whole."""
    body: dict[str, Any] = {
        "model": "any", "input": QUESTION.format(draw.randrange(1000), draw.randrange(1000)),
        "max_output_tokens": args.answer, "ignore_eos": True, "stream": True,
        "previous_response_id": before,
    }  # fmt: skip
    began = time.perf_counter()
    first = 0.0
    last = ""
    async with client.stream("POST", "/v1/responses", json=body) as response:
        if response.status_code != 200:
            raise ValueError(f"{response.status_code} {(await response.aread())[:150]!r}")
        async for text in response.aiter_lines():
            if not first and ".delta" in text:
                first = time.perf_counter() - began
            if text.startswith("data: {"):
                last = text
    event = json.loads(last.removeprefix("data: "))
    if event["type"] not in ("response.completed", "response.incomplete"):
        raise ValueError(f"the stream ended with {event['type']}")
    heard.first.append(first)
    heard.whole.append(time.perf_counter() - began)
    heard.tokens += event["response"]["usage"]["output_tokens"]
    return str(event["response"]["id"])


def line(people: int, heard: Heard, seconds: float) -> str:
    if not heard.first:
        return f"| {people} | | | | | | {len(heard.lost)} |"
    p50, p95, p99 = (f"{heard.percentile(share):.2f} s" for share in (0.5, 0.95, 0.99))
    whole = statistics.median(heard.whole)
    rate = heard.tokens / seconds
    return f"| {people} | {p50} | {p95} | {p99} | {whole:.1f} s | {rate:.0f} | {len(heard.lost)} |"


if __name__ == "__main__":
    main()
