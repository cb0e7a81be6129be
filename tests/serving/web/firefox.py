"""An installed Firefox for Playwright, which drives Firefox by WebDriver BiDi.

    python tests/serving/web/firefox.py [ARGUMENT ...]

starts the firefox-esr or firefox on the path with these arguments and passes on what Playwright
says to it, but for commands that releases up to Firefox ESR 153 do not know and that a page can do
without: they are answered here.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

NEEDLESS = ("emulation.setMediaFeaturesOverride",)
LISTENING = "WebDriver BiDi listening on "


async def main() -> None:
    found = shutil.which("firefox-esr") or shutil.which("firefox")
    assert found is not None, "there is no firefox on the path"
    firefox = await asyncio.create_subprocess_exec(
        found, *sys.argv[1:], stderr=asyncio.subprocess.PIPE
    )
    assert firefox.stderr is not None
    async for line in firefox.stderr:
        said = re.search(f"{LISTENING}(ws://[^ ]+)", line.decode().strip())
        if said:
            break
    else:
        return

    async def pass_on(near: ServerConnection) -> None:
        assert near.request is not None
        async with connect(f"{said[1]}{near.request.path}", max_size=None) as far:
            answers = asyncio.create_task(_answers(far, near))
            async for command in near:
                record = json.loads(command)
                if record["method"] in NEEDLESS:
                    done = {"type": "success", "id": record["id"], "result": {}}
                    await near.send(json.dumps(done))
                else:
                    await far.send(command)
            answers.cancel()

    async with serve(pass_on, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"{LISTENING}ws://127.0.0.1:{port}", file=sys.stderr, flush=True)
        async for _ in firefox.stderr:  # or it waits for someone to read it
            pass
        await firefox.wait()


async def _answers(far: ClientConnection, near: ServerConnection) -> None:
    async for answer in far:
        await near.send(answer)
    await near.close()


if __name__ == "__main__":
    asyncio.run(main())
