"""Ten times as many requests as there is room for: those that are taken in are answered in time,
the others are told when to come again."""

import asyncio
import json
import random
import time

import numpy as np
import pytest
from servers import http

TOKENS = 40


async def one(server, out, due):
    """Sends a request when it is due; (seconds from then to its end, status, headers) to out."""
    await asyncio.sleep(max(0, due - time.monotonic()))
    reader, writer = await asyncio.open_connection(*server.listener.getsockname())
    writer.write(http("/v1/completions", dict(prompt="x" * 10, max_tokens=TOKENS,
                                              ignore_eos=True, stream=True)))
    data = await reader.read()
    writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status == 429 or rest.count(b"data: ") > 1 and b"data: [DONE]\n\n" in rest
    out.append((time.monotonic() - due, status, head.lower(), rest))


def load(server, rate, seconds, seed):
    """What became of requests at `rate` a second, each sent when it is due."""
    draw, out = random.Random(seed), []

    async def run():
        start, due, tasks = time.monotonic(), 0.0, []
        while due < seconds:
            due += draw.expovariate(rate)
            tasks.append(asyncio.create_task(one(server, out, start + due)))
        await asyncio.gather(*tasks)
        return len(tasks)
    sent = asyncio.run(run())
    assert len(out) == sent
    return out


@pytest.mark.slow
def test_flooded(start, capsys):
    with start(queued=1) as server:
        server.core.engine.delay = 0.01   # as a device that computes, while the host is free
        begun = time.monotonic()
        assert server.post(prompt="x" * 10, max_tokens=TOKENS, ignore_eos=True).status_code == 200
        capacity = 4 / (time.monotonic() - begun)
        calm = [x[0] for x in load(server, 0.4 * capacity, 15, 1) if x[1] == 200]
        found = load(server, 10 * capacity, 15, 2)
        server.idle()
        server.core.scheduler.check()
        assert server.get("/readyz").status_code == 200
    taken = [x[0] for x in found if x[1] == 200]
    refused = [x for x in found if x[1] == 429]
    with capsys.disabled():
        print(f"\ncapacity {capacity:.1f}/s; sent {len(found)}, taken {len(taken)}; seconds, p50 "
              f"and p99: calm {np.percentile(calm, (50, 99)).round(3)}, flooded "
              f"{np.percentile(taken, (50, 99)).round(3)}, refused "
              f"{np.percentile([x[0] for x in refused], (50, 99)).round(4)}")
    assert len(taken) + len(refused) == len(found)
    for _, _, head, body in refused:
        assert b"\r\nretry-after: " in head
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
    assert len(taken) > 0.7 * capacity * 15
    assert np.percentile(taken, 99) < 2 * np.percentile(calm, 99)
