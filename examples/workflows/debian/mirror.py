"""Looks packages up on a server, several at a time, and sums up what they would install.

    bobbin submit debian/mirror.py --params '{"base": "http://127.0.0.1:8080", "packages": ["2048", "3dchess"]}' --wait
"""
import asyncio
import json
import urllib.parse

import bobbin

from . import size


async def fetch(base, package):
    """One GET over a plain connection: nothing but the standard library."""
    url = urllib.parse.urlsplit(base)
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        path = url.path + "/packages/" + urllib.parse.quote(package)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status = int(head.split()[1])
    if status != 200:
        raise LookupError(f"{package}: the server says {status}")
    return json.loads(body)


async def main(base, packages, at_once=8):
    turns = asyncio.Semaphore(at_once)
    done = 0

    async def one(package):
        nonlocal done
        async with turns:
            record = await fetch(base, package)
        done += 1
        bobbin.progress(done, len(packages), package)
        return record

    records = await asyncio.gather(*(one(p) for p in packages))
    print(f"fetched {len(records)} records from {base}")
    return size.total(records)
